//! How much a page of a Parquet file holds, where the library would unpack it without a bound.
//!
//! Of zstd, Snappy and `LZ4_RAW` it unpacks no more than a page's header claims. Gzip, and the frames
//! that old writers made of LZ4, it unpacks to their end and compares then: a megabyte can hold a
//! gigabyte. Such pages are unpacked here first, into nothing.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;

use flate2::read::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;
use parquet::basic::Compression;

/// How frames of LZ4 begin.
const LZ4_FRAME: [u8; 4] = 0x184D_2204_u32.to_le_bytes();

/// A part of a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let room = out.len().min(left);
        let read = self.file.read_at(&mut out[..room], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Whether what is packed between two places of a file holds more than `most` bytes. What is
/// damaged is left to whoever reads it: it holds no more than comes before the damage.
pub(crate) fn holds_more(
    file: &File,
    (start, end): (u64, u64),
    compression: Compression,
    most: u64,
) -> io::Result<bool> {
    let packed = || BufReader::new(Section { file, at: start, end });
    match compression {
        Compression::GZIP(_) => Ok(exceeds(MultiGzDecoder::new(packed()), most)),
        Compression::LZ4 => {
            let mut first = [0; LZ4_FRAME.len()];
            let whole = end - start >= first.len() as u64;
            if whole {
                file.read_exact_at(&mut first, start)?;
            }
            Ok(first == LZ4_FRAME && exceeds(FrameDecoder::new(packed()), most))
        }
        _ => Ok(false),
    }
}

fn exceeds(unpacked: impl Read, most: u64) -> bool {
    let mut held = Counted(0);
    // An error comes after all that could be unpacked was counted.
    let _ = io::copy(&mut unpacked.take(most.saturating_add(1)), &mut held);
    held.0 > most
}

struct Counted(u64);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(content).unwrap();
        out.finish().unwrap()
    }

    fn lz4(content: &[u8]) -> Vec<u8> {
        let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
        out.write_all(content).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn a_page_is_measured_up_to_what_it_may_hold() {
        let zeros = vec![0; 1 << 20];
        let of_gzip = Compression::GZIP(parquet::basic::GzipLevel::default());
        let two = [gzip(&zeros), gzip(&zeros)].concat();
        for (name, packed, compression, holds) in [
            ("gzip", gzip(&zeros), of_gzip, 1 << 20),
            ("two members of gzip", two, of_gzip, 2 << 20),
            ("a frame of LZ4", lz4(&zeros), Compression::LZ4, 1 << 20),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"head").unwrap();
            file.write_all(&packed).unwrap();
            file.write_all(b"tail").unwrap();
            let section = (4, 4 + packed.len() as u64);
            let more = |most| holds_more(&file, section, compression, most).unwrap();
            assert!(more(holds - 1) && more(0), "{name}");
            assert!(!more(holds) && !more(u64::MAX), "{name}");
            // Cut off, it holds less, and whoever reads it says so.
            let half = (4, 4 + packed.len() as u64 / 2);
            assert!(!holds_more(&file, half, compression, holds).unwrap(), "{name}");
        }
    }
}
