//! The container: settings by name, and where tensors are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use hearth_crds::worker_config::ExitCode;
use tch::{TchError, Tensor};

use super::blocks::BlockType;
use crate::model::ModelError;

/// Versions that are read. Version 1 had other sizes; later ones would say what changed.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// Longest text or list: vocabularies have some hundred thousand entries.
const MAX_LENGTH: u64 = 1 << 24;
/// Most tensors and settings.
const MAX_COUNT: u64 = 1 << 20;

/// Why a file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It contradicts itself.
    #[error("{}: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Hearth has no code for it.
    #[error("{}: {detail}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and what is.
        detail: String,
    },
    /// The directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// libtorch refused a tensor.
    #[error("libtorch failed: {0}")]
    Torch(#[from] TchError),
}

impl ImportError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ExitCode::NoInput
            }
            Self::Read { .. } | Self::Torch(_) => ExitCode::Failure,
            Self::Malformed { .. } => ExitCode::Data,
            Self::Unsupported { .. } => ExitCode::Usage,
            Self::Write { .. } => ExitCode::CannotCreate,
        }
    }
}

impl From<ImportError> for ModelError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Read { path, source } | ImportError::Write { path, source } => {
                Self::Read { path, source }
            }
            ImportError::Malformed { path, detail } => Self::Malformed { path, detail },
            ImportError::Unsupported { path, detail } => Self::Unsupported { path, detail },
            ImportError::Torch(error) => Self::Torch(error),
        }
    }
}

/// A setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// Any whole number.
    Integer(i64),
    /// Any float.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
}

impl Setting {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A matrix of whole numbers with a scale for each block of columns.
#[derive(Debug)]
pub struct Blocks {
    /// i8 `[N, K]`.
    pub values: Tensor,
    /// f32 `[N, K / 32]`.
    pub scales: Tensor,
    /// 8, or 4 where values are from -8 to 7.
    pub bits: u8,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
struct Place {
    /// Outermost dimension first, as in PyTorch.
    shape: Vec<i64>,
    kind: BlockType,
    offset: u64,
    bytes: u64,
}

/// An opened file.
#[derive(Debug)]
pub struct Gguf {
    file: File,
    path: PathBuf,
    settings: BTreeMap<String, Setting>,
    tensors: BTreeMap<String, Place>,
}

impl Gguf {
    /// Reads the header of `path`. Every size is checked against the file before it is trusted.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let read = |source| ImportError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut reader = Reader { input: BufReader::new(&file), position: 0 };
        let (settings, tensors) = reader.header(length).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ImportError::Malformed {
                path: path.to_owned(),
                detail: format!("not a whole GGUF file: {error}"),
            },
            io::ErrorKind::Unsupported => {
                ImportError::Unsupported { path: path.to_owned(), detail: error.to_string() }
            }
            _ => read(error),
        })?;
        Ok(Self { file, path: path.to_owned(), settings, tensors })
    }

    /// A setting.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    /// A whole number.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Setting::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// A float.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.get(name)? {
            Setting::Float(value) => Some(*value),
            Setting::Integer(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.text()
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Option<Vec<&str>> {
        let Setting::List(values) = self.get(name)? else { return None };
        values.iter().map(Setting::text).collect()
    }

    /// A list of whole numbers.
    pub fn integers(&self, name: &str) -> Option<Vec<i64>> {
        let Setting::List(values) = self.get(name)? else { return None };
        values
            .iter()
            .map(|value| match value {
                Setting::Integer(value) => Some(*value),
                _ => None,
            })
            .collect()
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape, outermost dimension first.
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.tensors.get(name).map(|place| place.shape.as_slice())
    }

    /// A tensor in f32.
    pub fn tensor(&self, name: &str) -> Result<Tensor, ImportError> {
        let (place, bytes) = self.bytes(name)?;
        let values = place.kind.dequantize(&bytes);
        Ok(Tensor::f_from_slice(&values)?.f_view(place.shape.as_slice())?)
    }

    /// Whether [`Self::blocks`] reads a tensor.
    pub fn is_whole(&self, name: &str) -> bool {
        self.tensors
            .get(name)
            .is_some_and(|place| place.kind.whole_bits().is_some() && place.shape.len() == 2)
    }

    /// A matrix as it is held, where it is whole numbers and scales.
    pub fn blocks(&self, name: &str) -> Result<Option<Blocks>, ImportError> {
        let kind = self.tensors.get(name).map(|place| (place.kind.whole_bits(), &place.shape[..]));
        let Some((Some(bits), &[rows, columns])) = kind else { return Ok(None) };
        let (place, bytes) = self.bytes(name)?;
        let (values, scales) = place.kind.whole(&bytes);
        Ok(Some(Blocks {
            values: Tensor::f_from_slice(&values)?.f_view([rows, columns])?,
            scales: Tensor::f_from_slice(&scales)?.f_view([rows, -1])?,
            bits,
        }))
    }

    fn bytes(&self, name: &str) -> Result<(&Place, Vec<u8>), ImportError> {
        let place = self
            .tensors
            .get(name)
            .ok_or_else(|| self.malformed(format!("tensor {name} is missing")))?;
        let mut bytes = vec![0; usize::try_from(place.bytes).unwrap_or(usize::MAX)];
        self.file
            .read_exact_at(&mut bytes, place.offset)
            .map_err(|source| ImportError::Read { path: self.path.clone(), source })?;
        Ok((place, bytes))
    }

    /// A file that contradicts itself.
    pub fn malformed(&self, detail: String) -> ImportError {
        ImportError::Malformed { path: self.path.clone(), detail }
    }

    /// A file that Hearth has no code for.
    pub fn unsupported(&self, detail: String) -> ImportError {
        ImportError::Unsupported { path: self.path.clone(), detail }
    }
}

type Header = (BTreeMap<String, Setting>, BTreeMap<String, Place>);

struct Reader<R> {
    input: R,
    position: u64,
}

impl<R: Read> Reader<R> {
    fn header(&mut self, length: u64) -> io::Result<Header> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err(invalid("it does not begin with \"GGUF\""));
        }
        let version = u32::from_le_bytes(self.bytes()?);
        if !VERSIONS.contains(&version) {
            let detail = format!("GGUF version {version} is not supported; 2 and 3 are");
            return Err(io::Error::new(io::ErrorKind::Unsupported, detail));
        }
        let tensors = self.bounded(MAX_COUNT, "tensors")?;
        let count = self.bounded(MAX_COUNT, "settings")?;
        let mut settings = BTreeMap::new();
        for _ in 0..count {
            let name = self.text()?;
            let kind = u32::from_le_bytes(self.bytes()?);
            let value = self.setting(kind, 0)?;
            settings.insert(name, value);
        }
        let mut places = Vec::new();
        for _ in 0..tensors {
            places.push(self.place()?);
        }
        let alignment = match settings.get("general.alignment") {
            Some(Setting::Integer(value)) if *value > 0 => value.unsigned_abs(),
            _ => 32,
        };
        let start = self.position.next_multiple_of(alignment);
        let mut found = BTreeMap::new();
        for (name, mut place) in places {
            place.offset = place.offset.saturating_add(start);
            if place.offset.saturating_add(place.bytes) > length {
                return Err(invalid(&format!("tensor {name} ends beyond the file")));
            }
            found.insert(name, place);
        }
        Ok((settings, found))
    }

    fn place(&mut self) -> io::Result<(String, Place)> {
        let name = self.text()?;
        let dimensions = u32::from_le_bytes(self.bytes()?);
        if !(1..=4).contains(&dimensions) {
            return Err(invalid(&format!("tensor {name} has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        let mut elements = 1u64;
        for _ in 0..dimensions {
            let size = u64::from_le_bytes(self.bytes()?);
            elements = elements
                .checked_mul(size)
                .filter(|elements| *elements <= 1 << 40)
                .ok_or_else(|| invalid(&format!("tensor {name} is too large")))?;
            shape.push(i64::try_from(size).unwrap_or(i64::MAX));
        }
        shape.reverse();
        let number = u32::from_le_bytes(self.bytes()?);
        let kind = BlockType::of(number).ok_or_else(|| {
            let detail = format!(
                "tensor {name} has ggml type {number}; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K and Q6_K are supported"
            );
            io::Error::new(io::ErrorKind::Unsupported, detail)
        })?;
        let bytes = kind
            .bytes(elements)
            .ok_or_else(|| invalid(&format!("tensor {name} is not a whole number of blocks")))?;
        let offset = u64::from_le_bytes(self.bytes()?);
        Ok((name, Place { shape, kind, offset, bytes }))
    }

    fn setting(&mut self, kind: u32, depth: u32) -> io::Result<Setting> {
        Ok(match kind {
            0 => Setting::Integer(i64::from(u8::from_le_bytes(self.bytes()?))),
            1 => Setting::Integer(i64::from(i8::from_le_bytes(self.bytes()?))),
            2 => Setting::Integer(i64::from(u16::from_le_bytes(self.bytes()?))),
            3 => Setting::Integer(i64::from(i16::from_le_bytes(self.bytes()?))),
            4 => Setting::Integer(i64::from(u32::from_le_bytes(self.bytes()?))),
            5 => Setting::Integer(i64::from(i32::from_le_bytes(self.bytes()?))),
            6 => Setting::Float(f64::from(f32::from_le_bytes(self.bytes()?))),
            7 => Setting::Bool(self.bytes::<1>()?[0] != 0),
            8 => Setting::Text(self.text()?),
            9 if depth < 2 => {
                let kind = u32::from_le_bytes(self.bytes()?);
                let count = self.bounded(MAX_LENGTH, "entries")?;
                let values = (0..count).map(|_| self.setting(kind, depth + 1));
                Setting::List(values.collect::<io::Result<_>>()?)
            }
            10 => Setting::Integer(
                i64::try_from(u64::from_le_bytes(self.bytes()?)).unwrap_or(i64::MAX),
            ),
            11 => Setting::Integer(i64::from_le_bytes(self.bytes()?)),
            12 => Setting::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(invalid(&format!("a setting has type {other}"))),
        })
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.bounded(MAX_LENGTH, "bytes of text")?;
        let mut bytes = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut bytes)?;
        self.position += bytes.len() as u64;
        if (bytes.len() as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        String::from_utf8(bytes).map_err(|_| invalid("a text is not UTF-8"))
    }

    fn bounded(&mut self, most: u64, what: &str) -> io::Result<u64> {
        let count = u64::from_le_bytes(self.bytes()?);
        if count > most { Err(invalid(&format!("it claims {count} {what}"))) } else { Ok(count) }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }
}

fn invalid(detail: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.to_owned())
}
