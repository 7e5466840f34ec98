//! Models of tables: gradient-boosted trees, or networks, that are calibrated, explained and watched.
//!
//! ```text
//! prepared: files -> batches of rows    learn: training rows -> features    table: rows -> numbers
//! train: numbers -> trees    holdout, calibration, threshold, metrics: trees -> a model that knows how good it is
//! fit: all of it    model: rows as JSON -> predictions, a directory    drift: how far rows are from training rows
//! network: how rows are given to networks, which somebody with libtorch computes
//! ```
//!
//! Trees are LightGBM's (Ke et al. 2017, NeurIPS), through its C interface (`lightgbm`): it takes
//! categories and missing values as they are, and its files are read by all that reads LightGBM's.
//! It is built without OpenMP, and trains on one thread: the process that trains may hold libtorch,
//! which brings an OpenMP runtime of its own, and two of these in one process are known to trouble
//! each other. Several models, or the pods of a sweep, train side by side instead.
//!
//! Invariants:
//! 1. A model's bytes follow from its rows and settings alone: not from the number of threads, nor from
//!    how often its training ended and went on.
//! 2. A row to predict becomes the numbers that it would have become as a training row.
//! 3. What is reported was measured on rows that nothing was chosen on.
//! 4. LightGBM reads no text that `lightgbm::check` has not found to be a forest of proper trees.

mod calibration;
mod columns;
mod config;
pub mod drift;
mod error;
mod features;
mod fit;
pub mod holdout;
mod learn;
mod lightgbm;
mod lists;
mod metrics;
mod model;
mod network;
mod normal;
pub mod prepared;
mod table;
mod threshold;
mod train;

pub use calibration::{Calibration, CalibrationMethod};
pub use columns::ValueType;
pub use config::{ClassWeight, Objective, Task, TreesConfig};
pub use error::{Result, TabularError};
pub use features::{Feature, Features, LeftOut, MAX_VOCABULARY, Reason};
pub use fit::{Choices, Fit, FitConfig, FitRows, assemble, fit};
pub use learn::{FeatureOptions, Learner};
pub use lightgbm::{Child, Forest, Split, Test, Tree};
pub use lists::ListColumn;
pub use metrics::{ClassificationMetrics, Metrics, RegressionMetrics, average_precision, roc_auc};
pub use model::{
    Contribution, Explanation, LabelPrediction, MODEL_TYPE, Model, NumberPrediction, Parts,
    Prediction, Recipe, Rows,
};
pub use network::{Codes, Encoding, Network, NetworkConfig, Scale, Scorer, Shape};
pub use table::Table;
pub use threshold::{Confusion, Counts, Share, Threshold, ThresholdTarget};
pub use train::{Best, Checkpoint, Iteration, Trained, label_weights, resume, train};
