//! Trees, one after another.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::config::{ClassWeight, Task, TreesConfig};
use crate::error::{Result, TabularError};
use crate::features::Features;
use crate::lightgbm::{Data, Predictor, Training};
use crate::table::Table;

/// Where training is, after an iteration.
#[derive(Debug)]
pub struct Iteration<'a> {
    /// Which, from 1.
    pub number: u32,
    /// Most of them.
    pub of: u32,
    /// Loss on training rows, weighted: cross-entropy in nats, or the regression's own.
    pub train_loss: f64,
    /// Loss on held-out rows, if there are any.
    pub eval_loss: Option<f64>,
    /// The lowest loss on held-out rows so far.
    pub best: Option<Best>,
    training: &'a Training<'a>,
}

/// The lowest loss on held-out rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Best {
    /// In which iteration, from 1.
    pub iteration: u32,
    /// How low.
    pub loss: f64,
}

/// From where training can go on. With the same rows and settings it ends with the trees that it
/// would have had without a stop, to the last bit of a prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// Iterations done.
    pub iteration: u32,
    /// The lowest loss so far.
    pub best: Option<Best>,
    /// Trees so far, in LightGBM's text.
    pub model: String,
}

/// What training gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// LightGBM's text: as many iterations as `iterations` says.
    pub model: String,
    /// Iterations of the model: up to the lowest loss where training may stop early, else all.
    pub iterations: u32,
    /// The lowest loss on held-out rows.
    pub best: Option<Best>,
}

impl Iteration<'_> {
    /// Writes down where training is.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let model = self.training.text(0)?;
        Ok(Checkpoint { iteration: self.number, best: self.best, model })
    }
}

/// Grows trees on `train`. `on_iteration` is told of each iteration, and may end training.
///
/// Equal rows and settings give equal bytes, whatever the machine's number of threads.
///
/// # Errors
///
/// Settings that are out of range or do nothing, labels of weights that are not there, tables of
/// different features, and what LightGBM refuses.
pub fn train(
    train: &Table,
    eval: Option<&Table>,
    config: &TreesConfig,
    on_iteration: impl FnMut(Iteration<'_>) -> ControlFlow<()>,
) -> Result<Trained> {
    resume(None, (train, eval), config, on_iteration)
}

/// [`train`], from a checkpoint on where there is one.
///
/// # Errors
///
/// Those of [`train`], and a checkpoint of other features or labels.
pub fn resume(
    checkpoint: Option<&Checkpoint>,
    (train, eval): (&Table, Option<&Table>),
    config: &TreesConfig,
    mut on_iteration: impl FnMut(Iteration<'_>) -> ControlFlow<()>,
) -> Result<Trained> {
    let features = train.features();
    config.check(features.task)?;
    if eval.is_some_and(|eval| eval.features() != features) {
        return Err(TabularError::Data("held-out rows have other features".to_owned()));
    }
    if config.early_stopping_rounds.is_some() && eval.is_none() {
        let detail = "there are no held-out rows to tell by; give some, or leave it out";
        return Err(TabularError::setting("earlyStoppingRounds", detail));
    }
    let earlier = checkpoint.map(|from| earlier(from, features)).transpose()?;
    let data = data(train, config, None, earlier.as_ref())?;
    let eval =
        eval.map(|eval| self::data(eval, config, Some(&data), earlier.as_ref())).transpose()?;
    let parameters = config.parameters(features.task, features.classes());
    let mut training = Training::new(&data, eval.as_ref(), &parameters)?;
    if let Some(earlier) = &earlier {
        // What these trees say of the rows is in the scores that `data` starts with.
        training.prepend(earlier)?;
    }
    let mut state = State {
        done: checkpoint.map_or(0, |from| from.iteration),
        best: checkpoint.and_then(|from| from.best),
    };
    while state.done < config.n_estimators && !state.is_over(config) {
        for change in config.draws(state.done) {
            training.reset(&change)?;
        }
        if !training.step()? {
            break;
        }
        state.done += 1;
        let eval_loss = eval.is_some().then(|| training.loss(true)).transpose()?;
        state.learn(eval_loss);
        let told = on_iteration(Iteration {
            number: state.done,
            of: config.n_estimators,
            train_loss: training.loss(false)?,
            eval_loss,
            best: state.best,
            training: &training,
        });
        if told.is_break() {
            break;
        }
    }
    finished(&training, config, state)
}

/// How far training is.
#[derive(Clone, Copy)]
struct State {
    done: u32,
    best: Option<Best>,
}

impl State {
    fn learn(&mut self, loss: Option<f64>) {
        let Some(loss) = loss else { return };
        if self.best.is_none_or(|best| loss < best.loss) {
            self.best = Some(Best { iteration: self.done, loss });
        }
    }

    /// Whether the loss has not become lower for long enough.
    fn is_over(&self, config: &TreesConfig) -> bool {
        let since = self.best.map(|best| self.done - best.iteration);
        config
            .early_stopping_rounds
            .is_some_and(|rounds| since.is_some_and(|since| since >= rounds))
    }
}

fn finished(training: &Training<'_>, config: &TreesConfig, state: State) -> Result<Trained> {
    if state.done == 0 {
        // LightGBM refuses no rows: it gives a tree without splits, and says that it is done.
        let detail = "no split is possible: too few rows for minChildSamples, or features that tell \
            nothing; give more rows, or lower minChildSamples";
        return Err(TabularError::Data(detail.to_owned()));
    }
    let iterations = match (config.early_stopping_rounds, state.best) {
        (Some(_), Some(best)) => best.iteration,
        _ => state.done,
    };
    Ok(Trained { model: training.text(iterations)?, iterations, best: state.best })
}

/// The model of a checkpoint.
fn earlier(checkpoint: &Checkpoint, features: &Features) -> Result<Predictor> {
    let earlier = Predictor::from_text(&checkpoint.model)?;
    let shape = earlier.shape();
    let iterations = u32::try_from(shape.iterations).unwrap_or(u32::MAX);
    if shape.features != features.features.len()
        || shape.classes != features.classes()
        || iterations != checkpoint.iteration
    {
        let detail = "the checkpoint is of other features, labels or iterations; begin anew";
        return Err(TabularError::Data(detail.to_owned()));
    }
    Ok(earlier)
}

/// Rows in LightGBM's form; those for evaluation are binned as the training rows are.
fn data(
    table: &Table,
    config: &TreesConfig,
    like: Option<&Data>,
    earlier: Option<&Predictor>,
) -> Result<Data> {
    let features = table.features();
    if table.rows() == 0 {
        return Err(TabularError::Data("there are no rows".to_owned()));
    }
    let parameters = config.data_parameters(&features.categories());
    let mut data = Data::new(table.matrix()?, &parameters, like)?;
    #[expect(clippy::cast_possible_truncation, reason = "LightGBM's labels have 32 bits")]
    let labels: Vec<f32> = table.labels().iter().map(|label| *label as f32).collect();
    data.label(&labels)?;
    if like.is_none() {
        data.name(&features.plain_names())?;
        if let Some(weights) = weights(table, config)? {
            data.weight(&weights)?;
        }
    }
    if let Some(earlier) = earlier {
        let scores = earlier.scores(table.matrix()?)?;
        data.start(&by_class(&scores, features.classes()), features.classes())?;
    }
    Ok(data)
}

/// `[rows, classes]` → `[classes, rows]`.
fn by_class(scores: &[f64], classes: usize) -> Vec<f64> {
    (0..classes).flat_map(|class| scores.iter().skip(class).step_by(classes).copied()).collect()
}

/// Of each row, where rows are weighted.
fn weights(table: &Table, config: &TreesConfig) -> Result<Option<Vec<f32>>> {
    let Some(of_label) = label_weights(table, &config.class_weight)? else { return Ok(None) };
    #[expect(clippy::cast_possible_truncation, reason = "LightGBM's weights have 32 bits")]
    let weight = |label: &f64| of_label[number(*label)] as f32;
    Ok(Some(table.labels().iter().map(weight).collect()))
}

/// What a row of each label counts; `None` where all rows count alike.
///
/// # Errors
///
/// Weights of labels that no row has, and weights that are not above 0.
pub fn label_weights(table: &Table, weight: &ClassWeight) -> Result<Option<Vec<f64>>> {
    let features = table.features();
    if features.task == Task::TabularRegression {
        return Ok(None);
    }
    Ok(Some(match weight {
        ClassWeight::None => return Ok(None),
        ClassWeight::Balanced => {
            let mut rows = vec![0_u64; features.labels.len()];
            for label in table.labels() {
                rows[number(*label)] += 1;
            }
            let all = table.rows() as f64 / rows.len() as f64;
            rows.iter().map(|rows| all / (*rows).max(1) as f64).collect()
        }
        ClassWeight::ByLabel(weights) => {
            for (label, weight) in weights {
                if features.label_number(label).is_none() {
                    let detail =
                        format!("there is no label {label:?}; name one of {:?}", features.labels);
                    return Err(TabularError::setting("classWeight", detail));
                }
                if !(*weight > 0.0 && weight.is_finite()) {
                    let detail = format!("the weight of {label:?} is not above 0");
                    return Err(TabularError::setting("classWeight", detail));
                }
            }
            let weight = |label| weights.get(label).copied().unwrap_or(1.0);
            features.labels.iter().map(weight).collect()
        }
    }))
}

/// A label's number, of a table of a classification.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
pub(crate) fn number(label: f64) -> usize {
    label as usize
}
