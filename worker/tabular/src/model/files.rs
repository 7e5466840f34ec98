//! Files of a model's directory.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::error::{Result, TabularError};

/// Makes the file at `path`, so that no crash tears it: a temporary name, fsync, rename.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let directory = path.parent().unwrap_or(Path::new("."));
    let written = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    written().map_err(|error| TabularError::write(path, error))
}

/// Reads a file of at most so many bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reading = |error| TabularError::read(path, error);
    let file = File::open(path).map_err(reading)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > most {
        return Err(TabularError::damaged(path, format!("it has over {most} bytes")));
    }
    Ok(bytes)
}
