//! Figures of a classifier from its confusion matrix. Pure.

/// Counts of right and wrong answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Row: true class. Column: answer.
    counts: Vec<u64>,
}

impl Confusion {
    /// No answers yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// From counts, row by row. `None` where there are not `classes²`.
    pub fn from_counts(classes: usize, counts: Vec<u64>) -> Option<Self> {
        (counts.len() == classes * classes).then_some(Self { classes, counts })
    }

    /// Classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Counts, row by row.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Adds one answer. Both are below the number of classes.
    pub fn add(&mut self, truth: usize, answer: usize) {
        self.counts[truth * self.classes + answer] += 1;
    }

    /// Answers.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of right answers; 0 without answers.
    pub fn accuracy(&self) -> f64 {
        let right = (0..self.classes).map(|class| self.at(class, class)).sum();
        ratio(right, self.total())
    }

    /// `2 TP / (2 TP + FP + FN)` of a class; 0 where all three are 0.
    pub fn f1(&self, class: usize) -> f64 {
        ratio(2 * self.at(class, class), self.truths(class) + self.answers(class))
    }

    /// Mean F1 of the classes that occur as truth or as answer, as
    /// scikit-learn's `f1_score(average="macro")`.
    pub fn f1_macro(&self) -> f64 {
        let occurring: Vec<usize> = (0..self.classes)
            .filter(|class| self.truths(*class) + self.answers(*class) > 0)
            .collect();
        if occurring.is_empty() {
            return 0.0;
        }
        occurring.iter().map(|class| self.f1(*class)).sum::<f64>() / occurring.len() as f64
    }

    /// F1 of class 1 with two classes, else [`Self::f1_macro`].
    pub fn f1_headline(&self) -> f64 {
        if self.classes == 2 { self.f1(1) } else { self.f1_macro() }
    }

    fn at(&self, truth: usize, answer: usize) -> u64 {
        self.counts[truth * self.classes + answer]
    }

    fn truths(&self, class: usize) -> u64 {
        (0..self.classes).map(|answer| self.at(class, answer)).sum()
    }

    fn answers(&self, class: usize) -> u64 {
        (0..self.classes).map(|truth| self.at(truth, class)).sum()
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(classes: usize, answers: &[(usize, usize)]) -> Confusion {
        let mut confusion = Confusion::new(classes);
        for (truth, answer) in answers {
            confusion.add(*truth, *answer);
        }
        confusion
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    // Expected values: scikit-learn 1.7, accuracy_score and f1_score(zero_division=0).
    #[test]
    fn two_classes() {
        let confusion = of(2, &[(1, 1), (1, 1), (1, 0), (0, 0), (0, 1), (0, 0), (0, 0)]);
        close(confusion.accuracy(), 5.0 / 7.0);
        close(confusion.f1(1), 2.0 / 3.0);
        close(confusion.f1(0), 0.75);
        close(confusion.f1_macro(), f64::midpoint(2.0 / 3.0, 0.75));
        close(confusion.f1_headline(), 2.0 / 3.0);
    }

    #[test]
    fn a_class_that_never_occurs_does_not_count_and_one_never_answered_counts_as_0() {
        let confusion = of(4, &[(0, 0), (1, 1), (2, 0)]);
        close(confusion.f1(2), 0.0);
        close(confusion.f1_macro(), (2.0 / 3.0 + 1.0 + 0.0) / 3.0);
        close(confusion.f1_headline(), confusion.f1_macro());
    }

    #[test]
    fn no_answers_are_no_division_by_zero() {
        let empty = Confusion::new(3);
        close(empty.accuracy() + empty.f1_macro() + empty.f1(0), 0.0);
    }
}
