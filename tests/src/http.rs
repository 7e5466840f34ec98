//! A plain HTTP/1.1 client: one request, one connection, so that a test sees
//! every refused or cut connection.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines, as they came.
    pub head: String,
    /// Body, chunks joined.
    pub body: String,
}

/// `POST` of JSON.
pub fn post(address: &str, path: &str, body: &str) -> Result<Answer> {
    let lines = ["Content-Type: application/json"];
    send(connect(address)?, request("POST", path, address, &lines, body))
}

/// `POST` of bytes of a media type.
pub fn post_bytes(address: &str, path: &str, media: &str, body: &[u8]) -> Result<Answer> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {media}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    send(connect(address)?, [head.as_bytes(), body].concat())
}

/// `GET`.
pub fn get(address: &str, path: &str) -> Result<Answer> {
    send(connect(address)?, request("GET", path, address, &[], ""))
}

/// A request with these header lines besides those that every one has.
pub fn request(method: &str, path: &str, host: &str, lines: &[&str], body: &str) -> String {
    let lines = lines.iter().fold(String::new(), |all, line| all + line + "\r\n");
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A connection on which nothing is waited for without end.
pub fn connect(address: &str) -> Result<TcpStream> {
    let target = address.to_socket_addrs()?.next().context("no address")?;
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Sends a request on a connection of its own, plain or not.
pub fn send(mut stream: impl Read + Write, request: impl AsRef<[u8]>) -> Result<Answer> {
    stream.write_all(request.as_ref())?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    parse(&String::from_utf8_lossy(&raw))
}

fn parse(raw: &str) -> Result<Answer> {
    let (head, body) = raw.split_once("\r\n\r\n").with_context(|| format!("cut answer {raw:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let lower = head.to_ascii_lowercase();
    let chunked = lower.contains("transfer-encoding: chunked");
    if let Some(length) = lower.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        ensure!(
            length.trim().parse() == Ok(body.len()),
            "cut body: {} of {length} bytes",
            body.len()
        );
    }
    Ok(Answer {
        status: status.with_context(|| format!("no status in {head:?}"))?,
        head: head.to_owned(),
        body: if chunked { join_chunks(body)? } else { body.to_owned() },
    })
}

fn join_chunks(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("cut chunk")?;
        let size = usize::from_str_radix(size.trim(), 16).context("bad chunk size")?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..size).context("cut chunk")?);
        rest = after.get(size + 2..).context("cut chunk")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let plain = parse("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (200, "ok"));
        let chunked = parse(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!(chunked.body, "abc");
        assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").is_err());
        assert!(parse("").is_err());
    }
}
