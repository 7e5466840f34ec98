//! Bodies of several files: `multipart/related` (RFC 2387), as DICOMweb's STOW-RS has it (PS3.18,
//! 8.7.1 and 10.5).

use bytes::Bytes;
use memchr::memmem;

/// Most bytes of a part's headers.
const HEADERS: usize = 4096;
/// Most characters of a boundary (RFC 2046, 5.1.1).
const LONGEST_BOUNDARY: usize = 70;

/// The name of a media type, in small letters.
pub fn name(media: &str) -> String {
    media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The value of one of its parameters.
pub fn parameter<'a>(media: &'a str, wanted: &str) -> Option<&'a str> {
    media.split(';').skip(1).find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().trim_matches('"'))
    })
}

/// The parts of a body, each without its headers, which must say that it is of `media`.
///
/// # Errors
///
/// A body that is not made of such parts; the sentence repeats nothing of it.
pub fn parts(body: &Bytes, boundary: &str, wanted: &str) -> Result<Vec<Bytes>, String> {
    if boundary.is_empty() || boundary.len() > LONGEST_BOUNDARY {
        return Err(format!("the boundary has {} characters; use 1 to 70", boundary.len()));
    }
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    let first = delimiter.strip_prefix(b"\r\n").unwrap_or(&delimiter);
    // The first delimiter may open the body, or end a preamble.
    let mut at = if body.starts_with(first) {
        first.len()
    } else {
        find(body, &delimiter, 0).ok_or("the body has no part between its boundaries")?
            + delimiter.len()
    };
    let mut parts = Vec::new();
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        let number = parts.len();
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let cut = || format!("part {number} is cut short");
        if rest.get(blanks..blanks + 2) != Some(b"\r\n") {
            return Err(cut());
        }
        let headers = at + blanks;
        let window = &body[headers..body.len().min(headers + HEADERS)];
        let length = find(window, b"\r\n\r\n", 0)
            .ok_or_else(|| format!("part {number} has no end of its headers, or too long ones"))?;
        check(&window[..length], number, wanted)?;
        let begin = headers + length + 4;
        // An empty part's delimiter begins with the end of its headers.
        let end = find(body, &delimiter, begin - 2).ok_or_else(cut)?;
        parts.push(body.slice(begin..end.max(begin)));
        at = end + delimiter.len();
    }
}

fn check(headers: &[u8], number: usize, wanted: &str) -> Result<(), String> {
    let text = std::str::from_utf8(headers)
        .map_err(|_| format!("the headers of part {number} are no text"))?;
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let encoding = header("content-transfer-encoding").unwrap_or("binary");
    if !encoding.eq_ignore_ascii_case("binary") {
        return Err(format!("part {number} is encoded; send it as it is (binary)"));
    }
    match header("content-type").map(name) {
        Some(name) if name == wanted => Ok(()),
        _ => Err(format!("the Content-Type of part {number} is not {wanted}")),
    }
}

/// Where `needle` begins in `bytes`, from `from` on.
fn find(bytes: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    Some(from + memmem::find(bytes.get(from..)?, needle)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DICOM: &str = "application/dicom";

    fn read(body: &str) -> Result<Vec<Bytes>, String> {
        parts(&Bytes::from(body.to_owned()), "b", DICOM)
    }

    #[test]
    fn parts_are_what_lies_between_boundaries() {
        let head = "Content-Type: application/dicom; transfer-syntax=1.2\r\n\r\n";
        let two = format!("--b\r\n{head}one\r\n--\r\n--b \r\n{head}\r\n--b--\r\nthe rest");
        assert_eq!(read(&two).unwrap(), ["one\r\n--", ""]);
        let preamble = format!("told to nobody\r\n--b\r\n{head}1\r\n--b--");
        assert_eq!(read(&preamble).unwrap(), ["1"]);
        assert_eq!(read("--b--").unwrap(), Vec::<Bytes>::new());
    }

    #[test]
    fn what_is_no_such_body_is_refused() {
        let head = "Content-Type: application/dicom\r\n\r\n";
        for (body, want) in [
            ("one".to_owned(), "no part"),
            ("--bone".to_owned(), "part 0 is cut short"),
            ("--b\r\nContent-Type: application/dicom\r\n".to_owned(), "no end of its headers"),
            (format!("--b\r\n{head}one"), "part 0 is cut short"),
            ("--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b--".to_owned(), "not application"),
            ("--b\r\n\r\n\r\none\r\n--b--".to_owned(), "not application"),
            (
                format!("--b\r\nContent-Transfer-Encoding: base64\r\n{head}one\r\n--b--"),
                "is encoded",
            ),
        ] {
            let refused = read(&body).unwrap_err();
            assert!(refused.contains(want), "{body:?}: {refused}");
        }
        assert!(parts(&Bytes::new(), "", DICOM).unwrap_err().contains("1 to 70"));
    }

    #[test]
    fn media_types_have_names_and_parameters() {
        let media = "Multipart/Related; type=\"application/dicom\"; BOUNDARY=x";
        assert_eq!(name(media), "multipart/related");
        assert_eq!(parameter(media, "boundary"), Some("x"));
        assert_eq!(parameter(media, "type"), Some(DICOM));
        assert_eq!(parameter(media, "start"), None);
    }
}
