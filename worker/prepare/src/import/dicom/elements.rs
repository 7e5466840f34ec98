//! The elements of a file: those on the list are read, all others are skipped.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use dicom_core::Tag;
use dicom_core::header::{DataElementHeader, Header as _, Length, SequenceItemHeader};
use dicom_dictionary_std::tags;
use dicom_parser::{DynStatefulDecoder, StatefulDecode};
use dicom_transfer_syntax_registry::entries;

use super::{DicomError, MOST_BYTES};

/// Bytes before the elements: 128 of anything, and the letters.
const PREAMBLE: usize = 132;
/// Bytes of a value on the list. The longest legal one is of 16 characters and some values.
const LONGEST_VALUE: u32 = 1024;
/// Sequences and items of unknown length in one another.
const DEEPEST: usize = 64;
/// The end of an item of unknown length.
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
/// Elements of a file: each takes time.
const MOST_ELEMENTS: usize = 1 << 20;

/// The elements that are read. None says who is shown, when, where, by whom or by which device.
const LIST: [Tag; 26] = [
    tags::MODALITY,
    tags::BODY_PART_EXAMINED,
    tags::VIEW_POSITION,
    tags::LATERALITY,
    tags::IMAGE_LATERALITY,
    tags::PIXEL_SPACING,
    tags::IMAGER_PIXEL_SPACING,
    tags::PATIENT_SEX,
    tags::PATIENT_AGE,
    tags::BURNED_IN_ANNOTATION,
    tags::RECOGNIZABLE_VISUAL_FEATURES,
    tags::ROWS,
    tags::COLUMNS,
    tags::NUMBER_OF_FRAMES,
    tags::SAMPLES_PER_PIXEL,
    tags::PHOTOMETRIC_INTERPRETATION,
    tags::PLANAR_CONFIGURATION,
    tags::BITS_ALLOCATED,
    tags::BITS_STORED,
    tags::HIGH_BIT,
    tags::PIXEL_REPRESENTATION,
    tags::RESCALE_SLOPE,
    tags::RESCALE_INTERCEPT,
    tags::WINDOW_CENTER,
    tags::WINDOW_WIDTH,
    tags::VOILUT_FUNCTION,
];

/// How pixels are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    LittleEndian,
    BigEndian,
    Rle,
    Jpeg,
}

/// The values on the list that a file has, and which look-up tables.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) encoding: Encoding,
    pub(super) has_modality_lut: bool,
    pub(super) has_voi_lut: bool,
    values: BTreeMap<Tag, Vec<u8>>,
}

/// The bytes of the pixels.
#[derive(Clone, Debug)]
pub(super) enum PixelBytes {
    Native(Vec<u8>),
    /// Fragments, and where in them each frame begins, counted from the first fragment's item;
    /// empty where the file does not say.
    Encapsulated {
        offsets: Vec<u32>,
        fragments: Vec<Vec<u8>>,
    },
}

impl Header {
    /// The text of an element without the spaces around it; `None` where it has none.
    pub(super) fn text(&self, tag: Tag) -> Option<&str> {
        let bytes = self.values.get(&tag)?;
        let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\0']);
        (!text.is_empty()).then_some(text)
    }

    /// The first 16-bit number of an element.
    pub(super) fn number(&self, tag: Tag) -> Option<u16> {
        let bytes = *self.values.get(&tag)?.first_chunk::<2>()?;
        Some(match self.encoding {
            Encoding::BigEndian => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        })
    }

    /// The first of an element's decimal numbers, where it has any.
    pub(super) fn decimal(&self, tag: Tag, name: &str) -> Result<Option<f64>, DicomError> {
        let first = self.text(tag).and_then(|text| text.split('\\').next());
        let parse = |text: &str| {
            let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
            number.ok_or_else(|| DicomError::damaged(format!("{name} is no number")))
        };
        first.map(parse).transpose()
    }

    /// The 16-bit number of an element that each picture has.
    pub(super) fn required(&self, tag: Tag, name: &str) -> Result<u16, DicomError> {
        self.number(tag).ok_or_else(|| DicomError::damaged(format!("{name} is missing")))
    }
}

/// Reads the elements of a file up to its pixels.
pub(super) fn read(mut source: impl Read + Seek) -> Result<(Header, PixelBytes), DicomError> {
    let size = source.seek(SeekFrom::End(0)).map_err(DicomError::Read)?;
    source.rewind().map_err(DicomError::Read)?;
    let mut source = BufReader::new(source);
    let mut preamble = [0; PREAMBLE];
    source.read_exact(&mut preamble).map_err(|_| DicomError::Format)?;
    if !preamble.ends_with(b"DICM") {
        return Err(DicomError::Format);
    }
    let (syntax, begin) = transfer_syntax(&mut source, size)?;
    source.seek(SeekFrom::Start(begin)).map_err(DicomError::Read)?;
    let (encoding, decoder) = match syntax.as_str() {
        "1.2.840.10008.1.2" => (Encoding::LittleEndian, entries::IMPLICIT_VR_LITTLE_ENDIAN),
        "1.2.840.10008.1.2.2" => (Encoding::BigEndian, entries::EXPLICIT_VR_BIG_ENDIAN),
        other => (explicit(other)?, entries::EXPLICIT_VR_LITTLE_ENDIAN),
    };
    let decoder = DynStatefulDecoder::new_with_ts(source, &decoder.erased(), begin);
    let mut elements = Elements { decoder: decoder.map_err(parser)?, size };
    elements.data_set(encoding)
}

/// How pixels are written down in a file of explicit VRs and little endian.
fn explicit(syntax: &str) -> Result<Encoding, DicomError> {
    let refused = |name: &str, tool: &str| {
        Err(DicomError::unsupported(format!(
            "is compressed as {name}, which is not read; decompress it, for example with {tool}"
        )))
    };
    match syntax {
        "1.2.840.10008.1.2.1" => Ok(Encoding::LittleEndian),
        "1.2.840.10008.1.2.5" => Ok(Encoding::Rle),
        // Baseline, extended, lossless, and lossless of selection value 1 (PS3.6 table A-1).
        "1.2.840.10008.1.2.4.50"
        | "1.2.840.10008.1.2.4.51"
        | "1.2.840.10008.1.2.4.57"
        | "1.2.840.10008.1.2.4.70" => Ok(Encoding::Jpeg),
        "1.2.840.10008.1.2.4.80" | "1.2.840.10008.1.2.4.81" => refused("JPEG-LS", "dcmdjpls"),
        "1.2.840.10008.1.2.4.90" | "1.2.840.10008.1.2.4.91" => {
            refused("JPEG 2000", "gdcmconv --raw")
        }
        "1.2.840.10008.1.2.1.99" => refused("a deflated data set", "dcmconv +te"),
        _ => refused("its transfer syntax says", "gdcmconv --raw"),
    }
}

/// The transfer syntax, and where the data set begins. The file's meta information is in explicit
/// VRs and little endian (PS3.10, 7.1).
fn transfer_syntax<R: Read>(source: R, size: u64) -> Result<(String, u64), DicomError> {
    let syntax = entries::EXPLICIT_VR_LITTLE_ENDIAN.erased();
    let decoder = DynStatefulDecoder::new_with_ts(source, &syntax, PREAMBLE as u64);
    let mut elements = Elements { decoder: decoder.map_err(parser)?, size };
    let mut syntax = None;
    loop {
        let begin = elements.decoder.position();
        let header = elements.decoder.decode_header().map_err(parser)?;
        if header.tag().group() != 2 {
            let syntax = syntax.ok_or_else(|| DicomError::damaged("no transfer syntax"))?;
            return Ok((syntax, begin));
        }
        if header.tag() == tags::TRANSFER_SYNTAX_UID {
            let value = String::from_utf8(elements.value(&header)?).unwrap_or_default();
            syntax = Some(value.trim_matches(['\0', ' ']).to_owned());
        } else {
            elements.skip(&header)?;
        }
    }
}

/// What dicom-rs says of bytes that it cannot read: places, and no values.
fn parser(error: impl std::error::Error) -> DicomError {
    DicomError::Damaged(error.to_string())
}

struct Elements<R> {
    decoder: DynStatefulDecoder<R>,
    size: u64,
}

impl<R: Read> Elements<R> {
    fn data_set(&mut self, encoding: Encoding) -> Result<(Header, PixelBytes), DicomError> {
        let (has_modality_lut, has_voi_lut) = (false, false);
        let values = BTreeMap::new();
        let mut found = Header { encoding, has_modality_lut, has_voi_lut, values };
        for _ in 0..MOST_ELEMENTS {
            if self.decoder.position() >= self.size {
                return Err(DicomError::unsupported("has no pixels"));
            }
            let header = self.decoder.decode_header().map_err(parser)?;
            match header.tag() {
                tags::PIXEL_DATA => {
                    let bytes = self.pixels(&header, encoding)?;
                    return Ok((found, bytes));
                }
                tag if LIST.contains(&tag) => {
                    let value = self.value(&header)?;
                    found.values.insert(tag, value);
                }
                tag => {
                    found.has_modality_lut |= tag == tags::MODALITY_LUT_SEQUENCE;
                    found.has_voi_lut |= tag == tags::VOILUT_SEQUENCE;
                    self.skip(&header)?;
                }
            }
        }
        Err(DicomError::damaged("too many elements"))
    }

    /// A length, where the file has so many bytes more.
    fn length(&self, length: Length) -> Result<u32, DicomError> {
        let left = self.size.saturating_sub(self.decoder.position());
        let length = length.get().filter(|length| u64::from(*length) <= left);
        length.ok_or_else(|| {
            let at = self.decoder.position();
            DicomError::damaged(format!("the value at byte {at} is longer than the file"))
        })
    }

    fn value(&mut self, header: &DataElementHeader) -> Result<Vec<u8>, DicomError> {
        let length = self.length(header.len)?;
        if length > LONGEST_VALUE {
            let at = self.decoder.position();
            return Err(DicomError::damaged(format!("the value at byte {at} is too long")));
        }
        self.bytes(length)
    }

    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, DicomError> {
        let mut bytes = Vec::new();
        self.decoder.read_to_vec(length, &mut bytes).map_err(parser)?;
        Ok(bytes)
    }

    fn skip(&mut self, header: &DataElementHeader) -> Result<(), DicomError> {
        if header.len.is_undefined() {
            return self.skip_sequence();
        }
        let length = self.length(header.len)?;
        self.decoder.skip_bytes(length).map_err(parser)
    }

    /// Skips a sequence of unknown length, from its first item to its end. Sequences and items of
    /// unknown length take turns on the way down, so that their number tells where it is.
    fn skip_sequence(&mut self) -> Result<(), DicomError> {
        let mut depth = 1;
        while depth > 0 {
            if depth > DEEPEST {
                return Err(DicomError::damaged("its sequences are too deep"));
            }
            let in_sequence = depth % 2 == 1;
            let length = if in_sequence {
                match self.decoder.decode_item_header().map_err(parser)? {
                    SequenceItemHeader::Item { len } => Some(len),
                    SequenceItemHeader::SequenceDelimiter => None,
                    SequenceItemHeader::ItemDelimiter => {
                        return Err(DicomError::damaged("an item ends that did not begin"));
                    }
                }
            } else {
                let header = self.decoder.decode_header().map_err(parser)?;
                (header.tag() != ITEM_END).then_some(header.len)
            };
            match length {
                None => depth -= 1,
                Some(length) if length.is_undefined() => depth += 1,
                Some(length) => {
                    let length = self.length(length)?;
                    self.decoder.skip_bytes(length).map_err(parser)?;
                }
            }
        }
        Ok(())
    }

    fn pixels(
        &mut self,
        header: &DataElementHeader,
        encoding: Encoding,
    ) -> Result<PixelBytes, DicomError> {
        match encoding {
            Encoding::LittleEndian | Encoding::BigEndian => {
                let length = self.length(header.len)?;
                // One byte of padding (PS3.5, 8.1.1) besides what is decoded.
                if u64::from(length) > MOST_BYTES + 1 {
                    return Err(DicomError::unsupported(format!(
                        "has {length} bytes of pixels, more than {MOST_BYTES}; split it"
                    )));
                }
                Ok(PixelBytes::Native(self.bytes(length)?))
            }
            Encoding::Rle | Encoding::Jpeg => self.fragments(),
        }
    }

    /// The items of encapsulated pixels: the offsets of frames, then fragments (PS3.5, A.4).
    fn fragments(&mut self) -> Result<PixelBytes, DicomError> {
        let mut items = Vec::new();
        let mut bytes = 0;
        loop {
            match self.decoder.decode_item_header().map_err(parser)? {
                SequenceItemHeader::Item { len } => {
                    let length = self.length(len)?;
                    bytes += u64::from(length);
                    if bytes > MOST_BYTES || items.len() > MOST_ELEMENTS {
                        return Err(DicomError::unsupported(format!(
                            "has more than {MOST_BYTES} bytes of compressed pixels; split it"
                        )));
                    }
                    items.push(self.bytes(length)?);
                }
                SequenceItemHeader::SequenceDelimiter => break,
                SequenceItemHeader::ItemDelimiter => {
                    return Err(DicomError::damaged("an item ends that did not begin"));
                }
            }
        }
        let mut items = items.into_iter();
        let offsets = items.next().unwrap_or_default();
        let offsets = offsets.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        Ok(PixelBytes::Encapsulated { offsets: offsets.collect(), fragments: items.collect() })
    }
}
