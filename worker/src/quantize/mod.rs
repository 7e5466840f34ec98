//! `hearth-worker quantize`: config → dense model → int8 directory → gate →
//! in its place.
//!
//! The output appears whole, under its name, only after the gate has passed.
//! Beside it `NAME.report.json` says what was done; a second run that finds the
//! same work done says the same again.

pub mod format;
pub mod gate;
pub mod linear;
pub mod write;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hearth_crds::model_deployment::{CompressionReport, Quantization};
use hearth_crds::training_job::ModelStatus;
use hearth_crds::worker_config::{ExitCode, QuantizeConfig, QuantizeGate, WorkerResult};
use serde::{Deserialize, Serialize};
use tch::Device;

pub use linear::load;

use crate::checkpoint::manifest::hash_file;
use crate::cores::cores;
use crate::data::dataset::{ReadOptions, load_for_evaluation};
use crate::data::{Samples, TextEncoder};
use crate::error::Error;
use crate::event::EvalMetrics;
use crate::export::ModelCard;
use crate::files::{replace_directory, temporary_beside, write_atomically};
use crate::model::{self, Model};
use crate::objective::Place;
use crate::termination::{failure, tell};
use crate::train::evaluate::evaluate;
use gate::{Comparison, GateFailed};

/// Samples in one forward pass of the gate.
const BATCH: usize = 32;
/// Changes when the same input would give another output.
const RECIPE: &str = "int8-1";

/// Why there is no compressed model.
#[derive(Debug, thiserror::Error)]
enum QuantizeError {
    #[error(transparent)]
    Engine(#[from] Error),
    #[error("quantization {0:?} is not supported yet; use INT8")]
    Quantization(Quantization),
    #[error("{} is compressed already; name the model that it was made from", .0.display())]
    Compressed(PathBuf),
    #[error(transparent)]
    Gate(#[from] GateFailed),
}

impl QuantizeError {
    fn exit_code(&self) -> i32 {
        match self {
            Self::Engine(error) => error.exit_code() as i32,
            Self::Quantization(_) | Self::Compressed(_) => ExitCode::Usage as i32,
            Self::Gate(_) => ExitCode::GateFailed as i32,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Engine(error) => error.reason(),
            Self::Quantization(_) | Self::Compressed(_) => "BadConfig",
            Self::Gate(_) => "GateFailed",
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Engine(error) => error.sentence(),
            other => other.to_string(),
        }
    }
}

/// What was done: `NAME.report.json` beside the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// [`RECIPE`].
    recipe: String,
    /// Hash over the model that was compressed.
    input: String,
    /// The gate that it passed or not.
    gate: Option<QuantizeGate>,
    /// `blake3:HEX` of the output; none where the gate refused it.
    digest: Option<String>,
    /// Sizes and the gate's metric.
    compression: CompressionReport,
    /// All figures of the original on the gate's rows.
    before: Option<EvalMetrics>,
    /// All figures of the compressed model.
    after: Option<EvalMetrics>,
}

/// Runs `hearth-worker quantize`; the process's exit code.
pub fn run(config: &Path) -> i32 {
    let result = crate::config::read::<QuantizeConfig>(config)
        .map_err(|error| QuantizeError::Engine(error.into()))
        .and_then(|config| {
            let report = quantize(&config)?;
            Ok(succeeded(&config, report))
        });
    match result {
        Ok(result) => {
            tracing::info!("{}", result.message);
            tell(&result)
        }
        Err(error) => {
            let message = error.sentence();
            tracing::error!("{message}");
            tell(&failure(error.reason(), message, error.exit_code()))
        }
    }
}

fn quantize(config: &QuantizeConfig) -> Result<Report, QuantizeError> {
    if config.quantization != Quantization::INT8 {
        return Err(QuantizeError::Quantization(config.quantization));
    }
    if linear::is_compressed(&config.model).map_err(Error::from)? {
        return Err(QuantizeError::Compressed(config.model.clone()));
    }
    let threads = cores();
    tch::set_num_threads(i32::try_from(threads.get()).unwrap_or(1));
    let input = hash_directory(&config.model)?;
    if let Some(report) = finished(config, &input) {
        tracing::info!("{} is there already, made from the same model", config.output.display());
        return Ok(report);
    }
    let dense = model::load(&config.model, Device::Cpu).map_err(Error::from)?;
    dense.expect_classifier().map_err(Error::from)?;
    let encoder = TextEncoder::from_export(&config.model).map_err(Error::from)?;
    let built = temporary_beside(&config.output);
    let done = compress(config, input, &dense, &encoder, &built);
    if done.is_err() {
        // The first error is the one to tell; a leftover harms nothing.
        let _ = fs::remove_dir_all(&built);
    }
    done
}

fn compress(
    config: &QuantizeConfig,
    input: String,
    dense: &Model,
    encoder: &TextEncoder,
    built: &Path,
) -> Result<Report, QuantizeError> {
    let digest = write::write(dense, encoder, &config.model, built)?;
    let mut report = Report {
        recipe: RECIPE.to_owned(),
        input,
        gate: config.gate.clone(),
        digest: None,
        compression: CompressionReport {
            size_before_bytes: weight_bytes(&config.model)?,
            size_after_bytes: weight_bytes(built)?,
            ..CompressionReport::default()
        },
        before: None,
        after: None,
    };
    // What is judged is what was written, read back as it will be served.
    let compressed = load(built, Device::Cpu).map_err(Error::from)?;
    let mut passed = Ok(());
    if let Some(gate) = &config.gate {
        let samples = gate_samples(gate, dense, encoder, &config.output)?;
        let place = Place::new(encoder.pad(), Device::Cpu);
        let judge = |model: &Model| evaluate(model, &samples, BATCH, place);
        let (before, after) = (judge(dense)?, judge(&compressed)?);
        let comparison = Comparison::of(gate.metric, &before, &after);
        report.compression.metric_before = Some(comparison.before);
        report.compression.metric_after = Some(comparison.after);
        passed = comparison.check(gate.max_drop, before.samples);
        report.before = Some(before);
        report.after = Some(after);
    }
    if passed.is_ok() {
        let place = |source| Error::Output { path: config.output.clone(), source };
        replace_directory(built, &config.output).map_err(place)?;
        report.digest = Some(digest);
    }
    write_report(config, &report)?;
    passed?;
    Ok(report)
}

fn gate_samples(
    gate: &QuantizeGate,
    model: &Model,
    encoder: &TextEncoder,
    output: &Path,
) -> Result<Samples, QuantizeError> {
    let cache = output.parent().unwrap_or(output).join(".hearth/cache");
    let threads = cores();
    let options = ReadOptions { encoder, cache: &cache, threads, seed: 0 };
    let samples = load_for_evaluation(&gate.data, model.labels(), 0, &options);
    Ok(samples.map_err(Error::from)?)
}

/// The report of an earlier run that did the same, if its output is whole.
fn finished(config: &QuantizeConfig, input: &str) -> Option<Report> {
    let text = fs::read_to_string(report_path(config)).ok()?;
    let report: Report = serde_json::from_str(&text).ok()?;
    let same = report.recipe == RECIPE && report.input == input && report.gate == config.gate;
    let card = ModelCard::read(&config.output).ok()??;
    let whole = report.digest.as_ref() == Some(&card.digest())
        && card.first_damage(&config.output).is_none();
    (same && whole).then_some(report)
}

fn succeeded(config: &QuantizeConfig, report: Report) -> WorkerResult {
    let CompressionReport { size_before_bytes, size_after_bytes, metric_before, metric_after } =
        &report.compression;
    let percent = 100.0 * *size_after_bytes as f64 / (*size_before_bytes).max(1) as f64;
    let figures = match (metric_before, metric_after) {
        (Some(before), Some(after)) => {
            format!("; the gate's metric went from {before:.4} to {after:.4}")
        }
        _ => "; no gate was asked for".to_owned(),
    };
    WorkerResult {
        succeeded: true,
        reason: "Completed".to_owned(),
        message: format!("compressed to int8, {percent:.0}% of the size{figures}"),
        exit_code: ExitCode::Done as i32,
        restarts: 0,
        progress: None,
        evaluations: Vec::new(),
        checkpoint: None,
        model: report.digest.map(|digest| ModelStatus { uri: config.output_uri.clone(), digest }),
        compression: Some(report.compression),
    }
}

fn report_path(config: &QuantizeConfig) -> PathBuf {
    let name = config.output.file_name().unwrap_or_default().to_string_lossy();
    config.output.with_file_name(format!("{name}.report.json"))
}

fn write_report(config: &QuantizeConfig, report: &Report) -> Result<(), Error> {
    let path = report_path(config);
    write_atomically(&path, |out| {
        serde_json::to_writer_pretty(&mut *out, report)?;
        out.write_all(b"\n")
    })
    .map_err(|source| Error::Output { path, source })
}

/// Hash over names and contents of a directory's files.
fn hash_directory(directory: &Path) -> Result<String, Error> {
    let hash = || -> io::Result<String> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if fs::metadata(&path)?.is_file() {
                let (_, hash) = hash_file(&path)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                lines.push(format!("{hash}  {name}\n"));
            }
        }
        lines.sort();
        Ok(blake3::hash(lines.concat().as_bytes()).to_hex().to_string())
    };
    hash().map_err(|source| read_error(directory, source))
}

/// Bytes of the weights' files.
fn weight_bytes(directory: &Path) -> Result<i64, Error> {
    let sum = || -> io::Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                sum += fs::metadata(&path)?.len();
            }
        }
        Ok(sum)
    };
    let bytes = sum().map_err(|source| read_error(directory, source))?;
    Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn read_error(path: &Path, source: io::Error) -> Error {
    model::ModelError::Read { path: path.to_owned(), source }.into()
}
