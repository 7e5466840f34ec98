//! What a run's figures say about its settings, with what to change. Pure.
//!
//! [`course`] watches loss and gradient over steps, [`memory`] says what memory went into,
//! [`range`] reads a learning rate range test, and [`imbalance`] looks at classes.

pub mod course;
pub mod memory;
pub mod range;

/// Something that people should change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// CamelCase, from a closed set.
    pub reason: &'static str,
    /// What was seen, and which fields to change.
    pub message: String,
}

/// Times that the largest class may be the smallest before it is worth telling.
const MOST_IMBALANCE: u64 = 10;

/// What classes of these sizes ask for.
pub fn imbalance(classes: &[(String, u64)]) -> Option<Advice> {
    let (most, least) = (
        classes.iter().max_by_key(|(_, rows)| *rows)?,
        classes.iter().min_by_key(|(_, rows)| *rows)?,
    );
    if most.1 < least.1.max(1).saturating_mul(MOST_IMBALANCE) {
        return None;
    }
    let message = format!(
        "class {:?} has {} rows and class {:?} has {}: a model that never answers {:?} is nearly as accurate; set objective.classWeights: Balanced, and judge by f1Macro (training.metricForBestModel)",
        most.0, most.1, least.0, least.1, least.0
    );
    Some(Advice { reason: "ClassImbalance", message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_differ_tenfold_are_told() {
        let classes = |a, b| vec![("ham".to_owned(), a), ("spam".to_owned(), b)];
        assert_eq!(imbalance(&classes(90, 10)), None);
        let advice = imbalance(&classes(100, 10)).unwrap();
        assert_eq!(advice.reason, "ClassImbalance");
        assert!(advice.message.contains("\"spam\" has 10"), "{}", advice.message);
        assert!(imbalance(&classes(100, 0)).is_some());
        assert_eq!(imbalance(&[]), None);
    }
}
