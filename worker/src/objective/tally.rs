//! What an evaluation counts, to be added over ranks.

use super::confusion::Confusion;
use crate::data::Labels;
use crate::event::EvalMetrics;

/// Sums over samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Sum of cross-entropies, in nats.
    pub loss_sum: f64,
    /// Answers.
    answers: Answers,
}

#[derive(Clone, Debug, PartialEq)]
enum Answers {
    /// Of a classifier.
    Classes(Confusion),
    /// Of a language model.
    Tokens { predicted: u64, hits: u64 },
}

impl Tally {
    /// Of a classifier, nothing counted yet.
    pub fn classes(classes: usize) -> Self {
        Self { loss_sum: 0.0, answers: Answers::Classes(Confusion::new(classes)) }
    }

    /// Of a language model, nothing counted yet.
    pub fn tokens() -> Self {
        Self { loss_sum: 0.0, answers: Answers::Tokens { predicted: 0, hits: 0 } }
    }

    /// Adds pairs of a true class and an answer.
    pub fn add_classes(&mut self, loss_sum: f64, pairs: impl Iterator<Item = (i64, i64)>) {
        self.loss_sum += loss_sum;
        let class = |id: i64| usize::try_from(id).unwrap_or(0);
        if let Answers::Classes(confusion) = &mut self.answers {
            pairs.for_each(|(truth, answer)| confusion.add(class(truth), class(answer)));
        }
    }

    /// Adds predicted tokens, of which `new_hits` are right.
    pub fn add_tokens(&mut self, loss_sum: f64, tokens: u64, new_hits: u64) {
        self.loss_sum += loss_sum;
        if let Answers::Tokens { predicted, hits } = &mut self.answers {
            *predicted += tokens;
            *hits += new_hits;
        }
    }

    /// As a vector that can be added element by element.
    pub fn to_sums(&self) -> Vec<f64> {
        let counts: Vec<u64> = match &self.answers {
            Answers::Classes(confusion) => confusion.counts().to_vec(),
            Answers::Tokens { predicted, hits } => vec![*predicted, *hits],
        };
        std::iter::once(self.loss_sum).chain(counts.iter().map(|count| *count as f64)).collect()
    }

    /// This tally with the counts of [`Self::to_sums`]; `None` where their number is another.
    pub fn with_sums(&self, sums: &[f64]) -> Option<Self> {
        let (loss_sum, counts) = sums.split_first()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "sums of counts, exact up to 2^53"
        )]
        let counts: Vec<u64> = counts.iter().map(|count| *count as u64).collect();
        let answers = match (&self.answers, counts.as_slice()) {
            (Answers::Classes(own), _) => {
                Answers::Classes(Confusion::from_counts(own.classes(), counts)?)
            }
            (Answers::Tokens { .. }, [predicted, hits]) => {
                Answers::Tokens { predicted: *predicted, hits: *hits }
            }
            (Answers::Tokens { .. }, _) => return None,
        };
        Some(Self { loss_sum: *loss_sum, answers })
    }

    /// The figures that people read.
    pub fn metrics(&self, labels: &Labels, seconds: f64) -> EvalMetrics {
        match &self.answers {
            Answers::Classes(confusion) => {
                let by_class = labels.names().iter().enumerate();
                EvalMetrics {
                    loss: self.loss_sum / confusion.total().max(1) as f64,
                    accuracy: confusion.accuracy(),
                    f1: Some(confusion.f1_headline()),
                    f1_macro: Some(confusion.f1_macro()),
                    samples: confusion.total(),
                    f1_by_class: by_class
                        .map(|(id, name)| (name.clone(), confusion.f1(id)))
                        .collect(),
                    seconds,
                }
            }
            Answers::Tokens { predicted, hits } => EvalMetrics {
                loss: self.loss_sum / (*predicted).max(1) as f64,
                accuracy: *hits as f64 / (*predicted).max(1) as f64,
                samples: *predicted,
                seconds,
                ..EvalMetrics::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(first: &Tally, second: &Tally) -> Tally {
        let sums: Vec<f64> =
            first.to_sums().iter().zip(second.to_sums()).map(|(a, b)| a + b).collect();
        first.with_sums(&sums).unwrap()
    }

    #[test]
    fn tallies_add_over_ranks() {
        let (mut first, mut second) = (Tally::classes(2), Tally::classes(2));
        first.add_classes(1.5, [(1, 1)].into_iter());
        second.add_classes(0.5, [(0, 1)].into_iter());
        let metrics = add(&first, &second).metrics(&Labels::new(vec!["n".into(), "p".into()]), 0.0);
        assert_eq!((metrics.samples, metrics.loss, metrics.accuracy), (2, 1.0, 0.5));
        assert_eq!(Tally::classes(3).with_sums(&first.to_sums()), None);

        let (mut first, mut second) = (Tally::tokens(), Tally::tokens());
        first.add_tokens(6.0, 3, 1);
        second.add_tokens(2.0, 1, 1);
        let metrics = add(&first, &second).metrics(&Labels::NONE, 0.0);
        assert_eq!((metrics.loss, metrics.accuracy, metrics.f1), (2.0, 0.5, None));
    }
}
