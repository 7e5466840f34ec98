//! Answers of a model, kept as they come: a run that is killed does not ask again, and equal texts
//! get equal answers.
//!
//! The file is a log. A record that a kill has cut off is the last one, and is written over.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Length of an answer that is none.
const NONE: u32 = u32::MAX;
/// Bytes of a record before its text, and of the check after it.
const HEAD: usize = 20;
const CHECK: usize = 4;

/// What is known of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was not asked.
    Unasked,
    /// Nothing new came of it.
    Nothing,
    /// The answer.
    Text(String),
}

/// Answers by what was asked. Threads share one; memory holds some 32 bytes an answer.
#[derive(Debug)]
pub struct Answers(Mutex<Log>);

#[derive(Debug)]
struct Log {
    file: File,
    /// Where the answer's text begins, and its length.
    known: HashMap<u128, (u64, u32)>,
    end: u64,
}

impl Answers {
    /// Opens the log at `path`, and makes it where there is none.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut log = Log { file, known: HashMap::new(), end: 0 };
        log.read()?;
        Ok(Self(Mutex::new(log)))
    }

    /// What was answered, where it was asked.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn get(&self, asked: u128) -> io::Result<Known> {
        self.lock().get(asked)
    }

    /// Keeps an answer; the one that counts, which is an earlier one where there is one.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn put(&self, asked: u128, answer: Option<&str>) -> io::Result<Option<String>> {
        let mut log = self.lock();
        match log.get(asked)? {
            Known::Text(text) => Ok(Some(text)),
            Known::Nothing => Ok(None),
            Known::Unasked => {
                log.write(asked, answer)?;
                Ok(answer.map(str::to_owned))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn read(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        let mut input = BufReader::new(&self.file);
        while let Some((asked, length, bytes)) = record(&mut input, size - self.end)? {
            self.known.insert(asked, (self.end + HEAD as u64, length));
            self.end += bytes;
        }
        Ok(())
    }

    fn get(&self, asked: u128) -> io::Result<Known> {
        match self.known.get(&asked) {
            None => Ok(Known::Unasked),
            Some((_, NONE)) => Ok(Known::Nothing),
            Some((start, length)) => {
                let mut text = vec![0; *length as usize];
                self.file.read_exact_at(&mut text, *start)?;
                String::from_utf8(text).map(Known::Text).map_err(io::Error::other)
            }
        }
    }

    fn write(&mut self, asked: u128, answer: Option<&str>) -> io::Result<()> {
        let length = match answer {
            None => NONE,
            Some(text) => u32::try_from(text.len()).map_err(io::Error::other)?,
        };
        let mut bytes = asked.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(answer.unwrap_or_default().as_bytes());
        let check = check(&bytes);
        bytes.extend(check);
        self.file.write_all_at(&bytes, self.end)?;
        self.known.insert(asked, (self.end + HEAD as u64, length));
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// The next record: what was asked, the answer's length, and its own; `None` where it is not whole.
fn record(input: &mut impl io::Read, left: u64) -> io::Result<Option<(u128, u32, u64)>> {
    let mut bytes = vec![0; HEAD];
    if left < HEAD as u64 {
        return Ok(None);
    }
    input.read_exact(&mut bytes)?;
    let (Some(asked), Some(length)) = (bytes.first_chunk(), bytes.last_chunk()) else {
        return Ok(None);
    };
    let (asked, length) = (u128::from_le_bytes(*asked), u32::from_le_bytes(*length));
    let text = if length == NONE { 0 } else { u64::from(length) };
    let whole = HEAD as u64 + text + CHECK as u64;
    if left < whole {
        return Ok(None);
    }
    input.take(text).read_to_end(&mut bytes)?;
    let mut told = [0; CHECK];
    input.read_exact(&mut told)?;
    Ok((told == check(&bytes)).then_some((asked, length, whole)))
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    *blake3::hash(bytes).as_bytes().first_chunk().unwrap_or(&[0; CHECK])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_again_and_the_first_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("answers");
        let answers = Answers::open(&path).unwrap();
        assert_eq!(answers.get(1).unwrap(), Known::Unasked);
        assert_eq!(answers.put(1, Some("one")).unwrap().as_deref(), Some("one"));
        assert_eq!(answers.put(1, Some("other")).unwrap().as_deref(), Some("one"));
        assert_eq!(answers.put(2, None).unwrap(), None);
        let again = Answers::open(&path).unwrap();
        assert_eq!(again.get(1).unwrap(), Known::Text("one".to_owned()));
        assert_eq!(again.get(2).unwrap(), Known::Nothing);
    }

    #[test]
    fn a_record_that_is_cut_off_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("answers");
        let answers = Answers::open(&path).unwrap();
        answers.put(1, Some("one")).unwrap();
        let whole = std::fs::metadata(&path).unwrap().len();
        answers.put(2, Some("two")).unwrap();
        for length in whole..whole * 2 {
            File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
            let cut = Answers::open(&path).unwrap();
            assert_eq!(cut.get(1).unwrap(), Known::Text("one".to_owned()));
            assert_eq!(cut.get(2).unwrap(), Known::Unasked);
            cut.put(3, Some("three")).unwrap();
            let again = Answers::open(&path).unwrap();
            assert_eq!(again.get(3).unwrap(), Known::Text("three".to_owned()), "{length}");
        }
    }
}
