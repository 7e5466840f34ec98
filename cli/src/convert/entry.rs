//! What becomes of one field of a configuration.

use serde_json::Value;

use super::draft::Draft;

/// Puts a value into the draft, or says why it cannot be had.
pub(super) type Take = fn(&Value, &str, &mut Draft<'_>) -> Result<(), String>;

/// A field and what becomes of it.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Name in the file.
    pub(super) name: &'static str,
    /// What becomes of it.
    pub(super) fate: Fate,
    /// Values, besides null, that ask for nothing: a JSON list.
    pub(super) neutral: &'static str,
    /// How it is done here, or why it is not. A clause without a full stop.
    pub(super) why: &'static str,
}

/// What becomes of a field.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    /// `spec.training` has it, in camelCase.
    Same(Take),
    /// It goes to another field of the spec.
    Renamed(&'static str, Take),
    /// Another place says it, and the value is not carried over.
    Elsewhere(&'static str),
    /// It does not change the result.
    LeftOut,
    /// Some values do not change the result, and others do.
    Checked(Take),
    /// It changes the result and has no counterpart.
    Refused,
}

impl Entry {
    /// Whether the value asks for nothing.
    pub(super) fn is_neutral(&self, value: &Value) -> bool {
        let neutral: Vec<Value> = serde_json::from_str(self.neutral).unwrap_or_default();
        value.is_null() || neutral.iter().any(|neutral| same(neutral, value))
    }

    /// Where the value goes, without `spec.`; `None` where nowhere.
    pub(super) fn place(&self) -> Option<String> {
        match self.fate {
            Fate::Same(_) => Some(format!("training.{}", camel_case(self.name))),
            Fate::Renamed(place, _) | Fate::Elsewhere(place) => Some(place.to_owned()),
            Fate::LeftOut | Fate::Checked(_) | Fate::Refused => None,
        }
    }
}

/// Equal, `0` and `0.0` included.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.to_bits() == other.to_bits(),
        _ => one == other,
    }
}

/// `learning_rate` as `learningRate`.
pub(super) fn camel_case(name: &str) -> String {
    let mut camel = String::new();
    for (place, part) in name.split('_').enumerate() {
        let mut letters = part.chars();
        match letters.next() {
            Some(first) if place > 0 => camel.extend(first.to_uppercase()),
            Some(first) => camel.push(first),
            None => {}
        }
        camel.push_str(letters.as_str());
    }
    camel
}

/// `spec.training` has it.
pub(super) const fn same_name(name: &'static str, take: Take) -> Entry {
    Entry { name, fate: Fate::Same(take), neutral: "[]", why: "" }
}

/// `spec.training` has it, with something to say about it.
pub(super) const fn same_but(name: &'static str, take: Take, why: &'static str) -> Entry {
    Entry { name, fate: Fate::Same(take), neutral: "[]", why }
}

/// It goes to `place`; `neutral` asks for nothing.
pub(super) const fn renamed(
    name: &'static str,
    neutral: &'static str,
    place: &'static str,
    take: Take,
    why: &'static str,
) -> Entry {
    Entry { name, fate: Fate::Renamed(place, take), neutral, why }
}

/// `place` says it.
pub(super) const fn elsewhere(
    name: &'static str,
    neutral: &'static str,
    place: &'static str,
    why: &'static str,
) -> Entry {
    Entry { name, fate: Fate::Elsewhere(place), neutral, why }
}

/// It does not change the result.
pub(super) const fn left_out(
    name: &'static str,
    neutral: &'static str,
    why: &'static str,
) -> Entry {
    Entry { name, fate: Fate::LeftOut, neutral, why }
}

/// It is left out where `take` lets it pass.
pub(super) const fn checked(
    name: &'static str,
    neutral: &'static str,
    take: Take,
    why: &'static str,
) -> Entry {
    Entry { name, fate: Fate::Checked(take), neutral, why }
}

/// It changes the result and is not offered.
pub(super) const fn refused(name: &'static str, neutral: &'static str, why: &'static str) -> Entry {
    Entry { name, fate: Fate::Refused, neutral, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_camel_case() {
        for (name, want) in [
            ("seed", "seed"),
            ("learning_rate", "learningRate"),
            ("adam_beta1", "adamBeta1"),
            ("ddp_bucket_cap_mb", "ddpBucketCapMb"),
        ] {
            assert_eq!(camel_case(name), want);
        }
    }

    #[test]
    fn neutral_values_are_known_by_number_not_by_spelling() {
        let entry = refused("neftune_noise_alpha", "[0]", "");
        for (value, neutral) in [("null", true), ("0.0", true), ("5", false)] {
            assert_eq!(entry.is_neutral(&serde_json::from_str(value).unwrap()), neutral, "{value}");
        }
    }
}
