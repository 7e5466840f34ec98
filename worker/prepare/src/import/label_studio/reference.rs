//! Addresses of pictures → paths below the export's directory.

use std::path::PathBuf;

use crate::import::within::{is_file, plain, slashed};

/// Where files lie that were uploaded: `/data/upload/PROJECT/FILE` is
/// `media/upload/PROJECT/FILE` of Label Studio's data directory.
const UPLOAD: &str = "/data/upload/";
/// Where files lie that are below `LOCAL_FILES_DOCUMENT_ROOT`; `?d=` says which.
const LOCAL: &str = "/data/local-files/?";
/// Buckets.
const BUCKETS: [&str; 4] = ["s3://", "gs://", "azure-blob://", "azure_spi://"];

/// Finds pictures.
#[derive(Debug)]
pub(super) struct References {
    /// Canonical.
    directory: PathBuf,
}

impl References {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The path, with slashes, below the directory of the picture at an address; else what to do.
    pub(super) fn path(&self, address: &str) -> Result<String, String> {
        let places = places(address)?;
        let plain = places.iter().filter_map(|place| plain(place));
        let found = plain.clone().find(|place| is_file(&self.directory, place));
        if plain.count() == 0 {
            return Err("the picture's address leads out of the export's directory".into());
        }
        found.as_deref().and_then(slashed).ok_or_else(|| {
            "the picture is not below the export's directory; put Label Studio's upload/, the folder of local files, or the bucket's objects there".into()
        })
    }
}

/// Where a picture may lie below the directory, the likeliest first.
fn places(address: &str) -> Result<Vec<String>, String> {
    if let Some((_, query)) = address.split_once(LOCAL) {
        let path = query.split('&').find_map(|part| part.strip_prefix("d="));
        let path = path.ok_or("the picture's address has no d=")?;
        return Ok(vec![decoded(path)?]);
    }
    if let Some((_, path)) = address.split_once(UPLOAD) {
        let path = decoded(path)?;
        let file = path.rsplit('/').next().unwrap_or_default();
        // Exports with pictures put them into `images`.
        let places =
            [format!("upload/{path}"), format!("media/upload/{path}"), format!("images/{file}")];
        return Ok(places.into());
    }
    if let Some(path) = BUCKETS.iter().find_map(|scheme| address.strip_prefix(scheme)) {
        let key = path.split_once('/').map_or("", |(_, key)| key);
        return Ok(vec![path.to_owned(), key.to_owned()]);
    }
    if address.contains("://") || address.starts_with("data:") {
        return Err("the picture is at an address that is not fetched; download it, and write its path below the export's directory".into());
    }
    Ok(vec![address.to_owned()])
}

/// A path whose bytes are partly written as `%` and two digits (RFC 3986, 2.1).
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if let Some(byte) = escaped(rest) {
            bytes.push(byte);
            rest = &rest[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| "the picture's address is not UTF-8".into())
}

/// The byte that `%` and two digits at the beginning stand for.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low] = *text.first_chunk::<3>()? else { return None };
    let digit = |letter: u8| char::from(letter).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[&str]) -> (tempfile::TempDir, References) {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::File::create(path).unwrap();
        }
        let references = References::new(directory.path().canonicalize().unwrap());
        (directory, references)
    }

    #[test]
    fn addresses_become_paths_below_the_export() {
        let files = [
            "upload/5/ab12-cat.png",
            "media/upload/5/ab12-dog.png",
            "images/ab12-cow.png",
            "local/a b/c%.png",
            "bucket/deep/x.jpg",
            "deep/y.jpg",
            "plain.png",
        ];
        let (_kept, references) = directory(&files);
        for (address, want) in [
            ("/data/upload/5/ab12-cat.png", Ok("upload/5/ab12-cat.png")),
            ("http://localhost:8080/data/upload/5/ab12-dog.png", Ok("media/upload/5/ab12-dog.png")),
            ("/label-studio/data/upload/9/ab12-cow.png", Ok("images/ab12-cow.png")),
            ("/data/local-files/?d=local/a%20b/c%25.png", Ok("local/a b/c%.png")),
            ("/data/local-files/?f=1&d=plain.png", Ok("plain.png")),
            ("s3://bucket/deep/x.jpg", Ok("bucket/deep/x.jpg")),
            ("gs://other/deep/y.jpg", Ok("deep/y.jpg")),
            ("plain.png", Ok("plain.png")),
            ("https://example.com/a.png", Err("not fetched")),
            ("data:image/png;base64,AAAA", Err("not fetched")),
            ("/data/local-files/?d=../../etc/passwd", Err("leads out")),
            ("/data/local-files/?d=%2Fetc%2Fpasswd", Err("leads out")),
            ("/etc/passwd", Err("leads out")),
            ("/data/local-files/?x=1", Err("no d=")),
            ("/data/local-files/?d=%FF", Err("UTF-8")),
            ("s3://bucket", Err("not below")),
            ("none.png", Err("not below")),
        ] {
            match (references.path(address), want) {
                (Ok(path), Ok(want)) => assert_eq!(path, want, "{address}"),
                (Err(told), Err(want)) => assert!(told.contains(want), "{address}: {told}"),
                (seen, _) => panic!("{address}: {seen:?}"),
            }
        }
    }
}
