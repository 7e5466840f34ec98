//! The classes of a classifier: names and ids.

use std::collections::BTreeSet;

/// Class names in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Labels {
    /// No class at all.
    pub const NONE: Self = Self(Vec::new());

    /// Classes in the order given: id 0 first.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Classes by the distinct `names`, sorted: by value where all are whole
    /// numbers, else by code point.
    pub fn of_names(names: &[String]) -> Self {
        let distinct: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut names: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
        let numbers: Option<Vec<i128>> = names.iter().map(|name| name.parse().ok()).collect();
        if numbers.is_some() {
            names.sort_by_key(|name| name.parse::<i128>().unwrap_or(i128::MAX));
        }
        Self(names)
    }

    /// The model's own order where it knows the same classes, so that its
    /// classifier stays usable.
    #[must_use]
    pub fn in_order_of(self, model: &Self) -> Self {
        let same = self.0.iter().collect::<BTreeSet<_>>() == model.0.iter().collect();
        if same { model.clone() } else { self }
    }

    /// Id of a class.
    pub fn id(&self, name: &str) -> Option<i64> {
        let index = self.0.iter().position(|known| known == name)?;
        i64::try_from(index).ok()
    }

    /// Name of a class.
    pub fn name(&self, id: usize) -> Option<&str> {
        self.0.get(id).map(String::as_str)
    }

    /// Names in the order of ids.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Classes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no class.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str]) -> Labels {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Labels::of_names(&names)
    }

    #[test]
    fn names_sort_as_text_and_numbers_by_value() {
        assert_eq!(labels(&["spam", "ham", "spam"]).names(), ["ham", "spam"]);
        assert_eq!(labels(&["10", "9", "-1"]).names(), ["-1", "9", "10"]);
        assert_eq!(labels(&["10", "9", "x"]).names(), ["10", "9", "x"]);
    }

    #[test]
    fn a_model_of_the_same_classes_keeps_its_order() {
        let model = Labels::new(vec!["spam".into(), "ham".into()]);
        assert_eq!(labels(&["ham", "spam"]).in_order_of(&model), model);
        assert_eq!(labels(&["ham", "eggs"]).in_order_of(&model).names(), ["eggs", "ham"]);
    }
}
