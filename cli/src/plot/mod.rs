//! `hearth plot JOB|DIR`: a run's curves on the terminal, or as a picture.
//!
//! [`source`] reads the points, [`curves`] makes panels of them and is pure;
//! [`terminal`] draws with Unicode's braille, [`picture`] as PNG or SVG.

mod canvas;
mod curves;
mod picture;
mod source;
mod terminal;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::args::PlotArgs;
use crate::{display, exit};
use picture::PictureError;
use source::SourceError;

/// Why nothing was drawn.
#[derive(Debug, thiserror::Error)]
enum PlotError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "{from} holds no point yet: a line comes every training.loggingSteps steps, so try again later"
    )]
    Empty { from: String },
    #[error("cannot draw the picture: {0}")]
    Picture(#[from] PictureError),
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// Draws the curves; the process's exit code.
pub async fn run(args: &PlotArgs) -> i32 {
    match draw(args).await {
        Ok(()) => exit::DONE,
        Err(error) => {
            display::err(&format!("hearth plot: {error}"));
            exit::FAILED
        }
    }
}

async fn draw(args: &PlotArgs) -> Result<(), PlotError> {
    let source::Run { title, points } = source::read(args).await?;
    let panels = curves::panels(&points);
    if panels.is_empty() {
        return Err(PlotError::Empty { from: title });
    }
    if let Some(path) = &args.png {
        write(path, &picture::png(&title, &panels)?)?;
    }
    if let Some(path) = &args.svg {
        write(path, picture::svg(&title, &panels)?.as_bytes())?;
    }
    if args.png.is_none() && args.svg.is_none() {
        let colors = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        display::out(&terminal::draw(&title, &panels, terminal::Look { width: width(), colors }));
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PlotError> {
    std::fs::File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| PlotError::Write { path: path.to_owned(), source })?;
    display::out(&format!("wrote {}", path.display()));
    Ok(())
}

/// Columns of the terminal; 80 elsewhere.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map_or(80, |size| usize::from(size.ws_col)).clamp(40, 200)
}
