//! `hearth-worker export`: a classifier, or a model of tables, as an ONNX file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use hearth_crds::worker_config::ExitCode;
use tch::Device;

use crate::error::Error;
use crate::files::write_atomically;
use crate::tabular;

/// Settings of `hearth-worker export`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory of a classifier (BERT's family, ViT, ResNet or MobileNetV2), or of a model of tables.
    #[arg(long)]
    model: PathBuf,
    /// File to write; what is there is replaced.
    #[arg(long)]
    onnx: PathBuf,
}

/// Runs the command. Returns the process's exit code.
pub fn run(arguments: &Arguments) -> i32 {
    match export(&arguments.model, &arguments.onnx) {
        Ok(()) => {
            tracing::info!("{} is written", arguments.onnx.display());
            ExitCode::Done as i32
        }
        Err(error) => {
            tracing::error!("{}", error.sentence());
            error.exit_code() as i32
        }
    }
}

/// Writes the model in `directory` to `file`.
pub fn export(directory: &Path, file: &Path) -> Result<(), Error> {
    let bytes = if tabular::is_model(directory) {
        tabular::onnx::read(directory)?.file
    } else {
        crate::model::load(directory, Device::Cpu)?.onnx()?
    };
    write_atomically(file, |out| out.write_all(&bytes))
        .map_err(|source| Error::Output { path: file.to_owned(), source })
}
