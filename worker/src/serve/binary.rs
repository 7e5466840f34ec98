//! Tensors as bytes behind the JSON of a body: the extension `binary_tensor_data` of the Open
//! Inference Protocol. Numbers are little-endian; a text is its length in 4 bytes, and itself.

/// Header that tells how many bytes of a body are JSON.
pub const JSON_LENGTH: &str = "inference-header-content-length";

/// A body's JSON, and what comes behind it.
pub fn split<'a>(
    body: &'a [u8],
    json_length: Option<&[u8]>,
) -> Result<(&'a [u8], &'a [u8]), String> {
    let Some(told) = json_length else { return Ok((body, &[])) };
    let length = std::str::from_utf8(told).ok().and_then(|told| told.parse().ok());
    let length: usize = length.ok_or_else(|| {
        format!("header {JSON_LENGTH} is {:?}, no number", String::from_utf8_lossy(told))
    })?;
    body.split_at_checked(length).ok_or_else(|| {
        format!("header {JSON_LENGTH} is {length}, and the body has {} bytes", body.len())
    })
}

/// Elements of a tensor of type BYTES.
pub fn read_elements(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let element = bytes.split_first_chunk::<4>().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        let Some((element, rest)) = element else {
            return Err(format!("the bytes behind the JSON end within element {}", elements.len()));
        };
        elements.push(element.to_owned());
        bytes = rest;
    }
    Ok(elements)
}

/// A tensor of type BYTES.
pub fn texts(texts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A tensor of type INT64.
pub fn int64(numbers: &[usize]) -> Vec<u8> {
    numbers.iter().flat_map(|number| (*number as u64).to_le_bytes()).collect()
}

/// A tensor of type FP32.
pub fn fp32(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_split_where_its_header_says() {
        assert_eq!(split(b"{}ab", Some(b"2")).unwrap(), (&b"{}"[..], &b"ab"[..]));
        assert_eq!(split(b"{}", None).unwrap(), (&b"{}"[..], &b""[..]));
        for (length, want) in [("3", "the body has 2 bytes"), ("-1", "no number")] {
            let refused = split(b"{}", Some(length.as_bytes())).unwrap_err();
            assert!(refused.contains(want), "{refused}");
        }
    }

    #[test]
    fn texts_come_back_as_they_were_and_halves_are_refused() {
        let bytes = texts(&["a", "", "\u{4e2d}\u{6587}"]);
        let want = ["a", "", "\u{4e2d}\u{6587}"].map(|text| text.as_bytes().to_vec());
        assert_eq!(read_elements(&bytes).unwrap(), want);
        for cut in [1, 4, bytes.len() - 1] {
            let refused = read_elements(&bytes[..cut]).unwrap_err();
            assert!(refused.contains("end within element"), "{cut}");
        }
        let refused = read_elements(b"\xff\xff\xff\xffx").unwrap_err();
        assert!(refused.contains("end within element 0"));
    }
}
