//! `hearth-worker import`: a GGUF file → a Hugging Face directory.
//!
//! llama.cpp's files hold weights, settings and tokenizer in one
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). Everything is written anew:
//! dequantized weights as safetensors, `config.json`, `tokenizer.json`.

pub mod blocks;
pub mod gguf;
pub mod llama;
pub mod tokenizer;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use hearth_crds::worker_config::ExitCode;
use serde_json::Value;
use tch::Kind;

use crate::checkpoint::shard;
use crate::files::{replace_directory, temporary_beside, write_json, write_synced};

pub use gguf::{Gguf, ImportError};

/// Settings of `hearth-worker import`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// File to read.
    #[arg(long)]
    gguf: PathBuf,
    /// Directory to write; what is there is replaced.
    #[arg(long)]
    output: PathBuf,
    /// Type of the written weights.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
}

/// Type of written weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32-bit floats: exactly what the blocks stand for.
    F32,
    /// bfloat16: half the size, rounded.
    Bf16,
}

/// Runs the command. Returns the process's exit code.
pub fn run(arguments: &Arguments) -> i32 {
    match import(&arguments.gguf, &arguments.output, arguments.dtype) {
        Ok(()) => {
            tracing::info!("{} is written", arguments.output.display());
            ExitCode::Done as i32
        }
        Err(error) => {
            tracing::error!("{error}");
            error.exit_code() as i32
        }
    }
}

/// Writes `output` from `file`.
pub fn import(file: &Path, output: &Path, precision: Precision) -> Result<(), ImportError> {
    let gguf = Gguf::open(file)?;
    let model = llama::Model::of(&gguf)?;
    let tokenizer = tokenizer::read(&gguf)?;
    let mut tensors = model.tensors(&gguf)?;
    if precision == Precision::Bf16 {
        for (_, tensor) in &mut tensors {
            *tensor = tensor.f_to_kind(Kind::BFloat16)?;
        }
    }
    let mut config = model.config;
    let dtype = if precision == Precision::Bf16 { "bfloat16" } else { "float32" };
    config.insert("dtype".into(), dtype.into());

    let built = temporary_beside(output);
    let written = (|| {
        match std::fs::remove_dir_all(&built) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&built)?,
        }
        shard::write(&built.join("model.safetensors"), &tensors, &[("format", "pt")])?;
        write_json(&built.join("config.json"), &Value::Object(config))?;
        write_json(&built.join("tokenizer_config.json"), &tokenizer.settings)?;
        write_synced(&built.join("tokenizer.json"), |out| {
            out.write_all(tokenizer.document.as_bytes())
        })?;
        replace_directory(&built, output)
    })();
    written.map_err(|source| ImportError::Write { path: output.to_owned(), source })
}
