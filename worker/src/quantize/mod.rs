//! `hearth-worker quantize`: config → dense model → compressed directory → gate →
//! in its place.
//!
//! The output appears whole, under its name, only after the gate has passed.
//! Beside it `NAME.report.json` says what was done; a second run that finds the
//! same work done says the same again.

mod blocks;
pub mod calibrate;
pub mod compare;
pub mod format;
pub mod gate;
pub mod gptq;
pub mod linear;
pub mod rows;
pub mod scheme;
mod smooth;
pub mod tensors;
mod tune;
pub mod write;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hearth_crds::model_deployment::{CompressionReport, Quantization};
use hearth_crds::pruning::{Pruning, PruningType};
use hearth_crds::training_job::ModelStatus;
use hearth_crds::worker_config::{
    ExitCode, QuantizeCalibration, QuantizeConfig, QuantizeGate, WorkerResult,
};
use serde::{Deserialize, Serialize};
use tch::Device;

pub use linear::{load, load_narrow};

use crate::checkpoint::manifest::hash_file;
use crate::cores::cores;
use crate::error::Error;
use crate::event::EvalMetrics;
use crate::export::{Decision, ModelCard, gguf};
use crate::files::{replace_directory, temporary_beside, write_atomically};
use crate::model::{self, Model};
use crate::objective::Place;
use crate::prune;
use crate::termination::{failure, tell};
use crate::train::evaluate::evaluate;
use calibrate::{RoundedLayers, calibrate};
use compare::Pair;
use gate::{Comparison, GateFailed};
use rows::Reader;
use write::Recipe;

/// Samples in one forward pass of the gate.
const BATCH: usize = 32;
/// Changes when the same input would give another output.
const RECIPE: &str = "7";

/// Why there is no compressed model.
#[derive(Debug, thiserror::Error)]
enum QuantizeError {
    #[error(transparent)]
    Engine(#[from] Error),
    #[error("a {model} has no {metric}; let compression.gate.metric be {instead}")]
    Metric { model: &'static str, metric: &'static str, instead: &'static str },
    #[error("{} is compressed already; name the model that it was made from", .0.display())]
    Compressed(PathBuf),
    #[error(
        "the smaller model answers otherwise than the deployment's (a language model beside a classifier, or other labels, or the same in another order): give its config.json the deployment's id2label, and train it anew"
    )]
    OtherAnswers,
    #[error(transparent)]
    Gate(#[from] GateFailed),
}

impl QuantizeError {
    fn exit_code(&self) -> i32 {
        match self {
            Self::Engine(error) => error.exit_code() as i32,
            Self::Metric { .. } | Self::Compressed(_) | Self::OtherAnswers => {
                ExitCode::Usage as i32
            }
            Self::Gate(_) => ExitCode::GateFailed as i32,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Engine(error) => error.reason(),
            Self::Metric { .. } | Self::Compressed(_) | Self::OtherAnswers => "BadConfig",
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
    /// Number format, and the most columns that share a scale.
    quantization: (Quantization, u32),
    /// Weights that were taken away first.
    #[serde(default)]
    pruning: Option<Pruning>,
    /// Hash over the model that was compressed.
    input: String,
    /// Hash over the model that it was compared with, where that is another.
    #[serde(default)]
    reference: Option<String>,
    /// What its weights were rounded by.
    calibration: Option<QuantizeCalibration>,
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

/// Hashes over what is read.
struct Hashes {
    input: String,
    reference: Option<String>,
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
    if linear::is_compressed(&config.model).map_err(Error::from)? {
        return Err(QuantizeError::Compressed(config.model.clone()));
    }
    let threads = cores();
    tch::set_num_threads(i32::try_from(threads.get()).unwrap_or(1));
    let hashes = Hashes {
        input: hash_directory(&config.model)?,
        reference: config.reference.as_deref().map(hash_directory).transpose()?,
    };
    if let Some(report) = finished(config, &hashes) {
        tracing::info!("{} is there already, made from the same model", config.output.display());
        return Ok(report);
    }
    let before = config.reference.as_ref().unwrap_or(&config.model);
    let before = model::load(before, Device::Cpu).map_err(Error::from)?;
    before.expect_text().map_err(Error::from)?;
    let reader = Reader::of(&before, &config.model)?;
    if let Some(gate) = &config.gate {
        reader.expect(gate.metric)?;
    }
    let built = temporary_beside(&config.output);
    let done = compress(config, hashes, &before, &reader, &built);
    if done.is_err() {
        // The first error is the one to tell; a leftover harms nothing.
        let _ = fs::remove_dir_all(&built);
    }
    done
}

fn compress(
    config: &QuantizeConfig,
    hashes: Hashes,
    before: &Model,
    reader: &Reader,
    built: &Path,
) -> Result<Report, QuantizeError> {
    let cache = config.output.parent().unwrap_or(&config.output).join(".hearth/cache");
    let mut own = own_model(config)?;
    if let Some(own) = &own
        && own.head != before.head
    {
        return Err(QuantizeError::OtherAnswers);
    }
    // Rounding makes zeros of its own.
    let sparsity = prune::sparsity(own.as_ref().unwrap_or(before)).map_err(Error::from)?;
    let recipe = recipe(config, (before, &mut own), reader, &cache)?;
    let written = own.as_ref().unwrap_or(before);
    let digest = write::write(written, &recipe, reader.max_length(), &config.model, built)?;
    drop(own);
    let mut report = Report {
        recipe: RECIPE.to_owned(),
        quantization: (config.quantization, config.group_size),
        pruning: config.pruning.clone(),
        input: hashes.input,
        reference: hashes.reference,
        calibration: config.calibration.clone(),
        gate: config.gate.clone(),
        digest: None,
        compression: CompressionReport {
            size_before_bytes: weight_bytes(config.reference.as_ref().unwrap_or(&config.model))?,
            size_after_bytes: weight_bytes(built)?,
            sparsity,
            ..CompressionReport::default()
        },
        before: None,
        after: None,
    };
    let mut passed = Ok(());
    if let Some(gate) = &config.gate {
        // What is judged is what was written, read back as it will be served.
        let compressed = load(built, Device::Cpu).map_err(Error::from)?;
        let place = |directory: &Path| -> Result<Place, Error> {
            let decision = Decision::of_model(directory, before.labels().names())?;
            let threshold = decision.map(|decision| decision.threshold.value);
            Ok(Place { threshold, ..reader.place() })
        };
        let pair = Pair {
            before: (before, place(config.reference.as_ref().unwrap_or(&config.model))?),
            after: (&compressed, place(built)?),
        };
        passed = judge(&mut report, gate, pair, reader, &cache)?;
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

/// The model that is rounded, where it is another than the one that it is compared with. Calibration
/// changes it.
fn own_model(config: &QuantizeConfig) -> Result<Option<Model>, Error> {
    if let Some(pruning) = &config.pruning {
        let (pruned, _) = prune::load(&config.model, pruning)?;
        return Ok(Some(pruned));
    }
    if config.calibration.is_none() && config.reference.is_none() {
        return Ok(None);
    }
    Ok(Some(model::load(&config.model, Device::Cpu)?))
}

/// How the model is compressed: `own`, or `before` where there is no other.
fn recipe(
    config: &QuantizeConfig,
    (before, own): (&Model, &mut Option<Model>),
    reader: &Reader,
    cache: &Path,
) -> Result<Recipe, Error> {
    let quantization = config.quantization;
    let dense = own.as_ref().unwrap_or(before);
    let layers = write::layers(dense, quantization, config.group_size.into());
    let mut rounded = RoundedLayers::new();
    if let (Some(calibration), Some(own)) = (&config.calibration, own) {
        let samples = reader.samples(&calibration.data, own, cache)?;
        let (kept_in, _) = write::floats(own, quantization);
        rounded = calibrate(own, &layers, &samples, (calibration.max_rows, kept_in))?;
    }
    Ok(Recipe { quantization, layers, rounded })
}

/// Fills in the report, and says whether the gate lets the compressed model pass.
fn judge(
    report: &mut Report,
    gate: &QuantizeGate,
    pair: Pair<'_>,
    reader: &Reader,
    cache: &Path,
) -> Result<Result<(), GateFailed>, QuantizeError> {
    let samples = reader.samples(&gate.data, pair.before.0, cache)?;
    let [before, after] =
        [pair.before, pair.after].map(|(model, place)| evaluate(model, &samples, BATCH, place));
    let (before, after) = (before?, after?);
    let latency = pair.latency(&samples)?;
    let comparison = Comparison::of(gate.metric, &before, &after);
    let told = &mut report.compression;
    told.metric_before = Some(comparison.before);
    told.metric_after = Some(comparison.after);
    told.agreement = Some(pair.agreement(&samples, BATCH)?);
    told.latency_before_milliseconds = Some(1e3 * latency.before);
    told.latency_after_milliseconds = Some(1e3 * latency.after);
    let passed = comparison.check(gate.max_drop, before.samples);
    report.before = Some(before);
    report.after = Some(after);
    Ok(passed)
}

/// The report of an earlier run that did the same, if its output is whole.
fn finished(config: &QuantizeConfig, hashes: &Hashes) -> Option<Report> {
    let text = fs::read_to_string(report_path(config)).ok()?;
    let report: Report = serde_json::from_str(&text).ok()?;
    let same = report.recipe == RECIPE
        && report.quantization == (config.quantization, config.group_size)
        && report.pruning == config.pruning
        && (&report.input, &report.reference) == (&hashes.input, &hashes.reference)
        && report.calibration == config.calibration
        && report.gate == config.gate;
    let card = ModelCard::read(&config.output).ok()??;
    let whole = report.digest.as_ref() == Some(&card.digest())
        && card.first_damage(&config.output).is_none();
    (same && whole).then_some(report)
}

fn succeeded(config: &QuantizeConfig, report: Report) -> WorkerResult {
    let CompressionReport { size_before_bytes, size_after_bytes, .. } = report.compression;
    let percent = 100.0 * size_after_bytes as f64 / size_before_bytes.max(1) as f64;
    let what = scheme::told(config.quantization);
    let pruned = config.pruning.as_ref().map_or("", |pruning| match pruning.type_ {
        PruningType::Structured => "pruned by heads or neurons and ",
        PruningType::Unstructured => "pruned weight by weight and ",
        PruningType::SemiStructured => "pruned to 2:4 and ",
    });
    WorkerResult {
        succeeded: true,
        reason: "Completed".to_owned(),
        message: format!(
            "{pruned}compressed to {what}, {percent:.0}% of the size{}",
            figures(&report.compression)
        ),
        exit_code: ExitCode::Done as i32,
        restarts: 0,
        progress: None,
        evaluations: Vec::new(),
        checkpoint: None,
        model: report.digest.map(|digest| ModelStatus { uri: config.output_uri.clone(), digest }),
        compression: Some(report.compression),
        notes: Vec::new(),
        data: None,
    }
}

fn figures(report: &CompressionReport) -> String {
    let (Some(before), Some(after)) = (report.metric_before, report.metric_after) else {
        return "; no gate was asked for".to_owned();
    };
    let agreement = 100.0 * report.agreement.unwrap_or_default();
    format!(
        "; the gate's metric went from {before:.4} to {after:.4}, and {agreement:.1}% of the answers are the same"
    )
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
    let wanted = if gguf::is_in(directory) { "gguf" } else { "safetensors" };
    let sum = || -> io::Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == wanted) {
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
