//! What an evaluation counts, to be added over ranks.

use super::confusion::Confusion;
use crate::data::Labels;
use crate::event::{EvalMetrics, Rewards};

/// Sums over samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Sum of the losses: of cross-entropies, in nats, or of pairs of answers.
    pub loss_sum: f64,
    /// Answers.
    answers: Answers,
}

#[derive(Clone, Debug, PartialEq)]
enum Answers {
    /// Of a classifier.
    Classes(Confusion),
    /// Of a language model: tokens predicted, and right ones.
    Tokens([f64; 2]),
    /// Of a language model with preferences: pairs, pairs whose better answer has the higher
    /// reward, sums of the better and of the worse answers' rewards.
    Pairs([f64; 4]),
}

impl Tally {
    /// Of a classifier, nothing counted yet.
    pub fn classes(classes: usize) -> Self {
        Self { loss_sum: 0.0, answers: Answers::Classes(Confusion::new(classes)) }
    }

    /// Of a language model, nothing counted yet.
    pub fn tokens() -> Self {
        Self { loss_sum: 0.0, answers: Answers::Tokens([0.0; 2]) }
    }

    /// Of preferences, nothing counted yet.
    pub fn pairs() -> Self {
        Self { loss_sum: 0.0, answers: Answers::Pairs([0.0; 4]) }
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
    pub fn add_tokens(&mut self, loss_sum: f64, tokens: f64, new_hits: f64) {
        self.loss_sum += loss_sum;
        if let Answers::Tokens([predicted, hits]) = &mut self.answers {
            *predicted += tokens;
            *hits += new_hits;
        }
    }

    /// Adds rewards of the better and the worse answer of pairs.
    pub fn add_pairs(&mut self, loss_sum: f64, rewards: impl Iterator<Item = (f64, f64)>) {
        self.loss_sum += loss_sum;
        if let Answers::Pairs([pairs, hits, chosen, rejected]) = &mut self.answers {
            for (better, worse) in rewards {
                *pairs += 1.0;
                *hits += f64::from(u8::from(better > worse));
                *chosen += better;
                *rejected += worse;
            }
        }
    }

    /// As a vector that can be added element by element.
    pub fn to_sums(&self) -> Vec<f64> {
        let mut sums = vec![self.loss_sum];
        match &self.answers {
            Answers::Classes(confusion) => {
                sums.extend(confusion.counts().iter().map(|count| *count as f64));
            }
            Answers::Tokens(counts) => sums.extend(counts),
            Answers::Pairs(counts) => sums.extend(counts),
        }
        sums
    }

    /// This tally with the counts of [`Self::to_sums`]; `None` where their number is another.
    pub fn with_sums(&self, sums: &[f64]) -> Option<Self> {
        let (loss_sum, counts) = sums.split_first()?;
        let answers = match &self.answers {
            Answers::Classes(own) => {
                let counts = counts.iter().map(|count| whole(*count)).collect();
                Answers::Classes(Confusion::from_counts(own.classes(), counts)?)
            }
            Answers::Tokens(_) => Answers::Tokens(counts.try_into().ok()?),
            Answers::Pairs(_) => Answers::Pairs(counts.try_into().ok()?),
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
                    accuracy: Some(confusion.accuracy()),
                    f1: Some(confusion.f1_headline()),
                    f1_macro: Some(confusion.f1_macro()),
                    samples: confusion.total(),
                    f1_by_class: by_class
                        .map(|(id, name)| (name.clone(), confusion.f1(id)))
                        .collect(),
                    seconds,
                    ..EvalMetrics::default()
                }
            }
            Answers::Tokens([predicted, hits]) => EvalMetrics {
                loss: self.loss_sum / predicted.max(1.0),
                accuracy: Some(hits / predicted.max(1.0)),
                samples: whole(*predicted),
                seconds,
                ..EvalMetrics::default()
            },
            Answers::Pairs([pairs, hits, chosen, rejected]) => {
                let count = pairs.max(1.0);
                EvalMetrics {
                    loss: self.loss_sum / count,
                    accuracy: Some(hits / count),
                    samples: whole(*pairs),
                    rewards: Some(Rewards {
                        chosen: chosen / count,
                        rejected: rejected / count,
                        accuracies: hits / count,
                        margins: (chosen - rejected) / count,
                    }),
                    seconds,
                    ..EvalMetrics::default()
                }
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sums of counts, exact up to 2^53"
)]
fn whole(count: f64) -> u64 {
    count as u64
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
        assert_eq!((metrics.samples, metrics.loss, metrics.accuracy), (2, 1.0, Some(0.5)));
        assert_eq!(Tally::classes(3).with_sums(&first.to_sums()), None);

        let (mut first, mut second) = (Tally::tokens(), Tally::tokens());
        first.add_tokens(6.0, 3.0, 1.0);
        second.add_tokens(2.0, 1.0, 1.0);
        let metrics = add(&first, &second).metrics(&Labels::NONE, 0.0);
        assert_eq!((metrics.loss, metrics.accuracy, metrics.f1), (2.0, Some(0.5), None));

        let (mut first, mut second) = (Tally::pairs(), Tally::pairs());
        first.add_pairs(1.0, [(0.5, 0.1), (-0.5, 0.5)].into_iter());
        second.add_pairs(0.5, [(1.0, 1.0), (0.2, -0.8)].into_iter());
        let metrics = add(&first, &second).metrics(&Labels::NONE, 0.0);
        assert_eq!((metrics.loss, metrics.accuracy, metrics.samples), (0.375, Some(0.5), 4));
        let rewards = metrics.rewards.unwrap();
        assert!((rewards.chosen - 0.3).abs() < 1e-12 && (rewards.margins - 0.1).abs() < 1e-12);
        assert!((rewards.accuracies - 0.5).abs() < 1e-12, "a tie is no hit");
    }
}
