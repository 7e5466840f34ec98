//! What a proxy does to header fields (RFC 9110 section 7.6, RFC 9112).

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue, Version};

use crate::socket::Peer;

/// Most header fields of a request.
pub(crate) const MAX_FIELDS: usize = 100;
/// Most bytes of a request's header fields, names and values.
pub(crate) const MAX_BYTES: usize = 16 << 10;
/// Name under which this proxy appears in `Via`.
const PSEUDONYM: &str = "hearth-gateway";
/// `Via` entries of our own after which a request runs in a circle.
const MAX_PASSES: usize = 4;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Revision that answered.
pub(crate) const X_HEARTH_REVISION: HeaderName = HeaderName::from_static("x-hearth-revision");

/// Fields that belong to one connection, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    UPGRADE,
];

/// Whether the fields are more than a request may have.
pub(crate) fn too_large(headers: &HeaderMap) -> bool {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    headers.len() > MAX_FIELDS || bytes > MAX_BYTES
}

/// Whether this request has come through here too often.
pub(crate) fn runs_in_a_circle(headers: &HeaderMap) -> bool {
    let entries = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
    entries.flat_map(|value| value.split(',')).filter(|e| e.contains(PSEUDONYM)).count()
        >= MAX_PASSES
}

/// The fields of a request as the backend gets them. Framing stays with hyper:
/// `Content-Length` is what it checked, `Transfer-Encoding` is written anew.
pub(crate) fn for_backend(headers: &mut HeaderMap, client: &Peer, version: Version) {
    remove_hop_by_hop(headers);
    // The body is asked for by reading it; 100 (Continue) was already sent.
    headers.remove(EXPECT);
    let before: Vec<&str> =
        headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    let chain = before.into_iter().map(str::to_owned).chain([client.address.ip().to_string()]);
    let chain = chain.collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&chain) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    // What stands before us may have ended TLS, and says so.
    let scheme = if client.is_encrypted { "https" } else { "http" };
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(scheme));
    append_via(headers, version);
}

/// The fields of an answer as the client gets them.
pub(crate) fn for_client(headers: &mut HeaderMap, revision: &HeaderValue, version: Version) {
    remove_hop_by_hop(headers);
    append_via(headers, version);
    headers.insert(X_HEARTH_REVISION, revision.clone());
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Naming the length would let a client hide where its body ends.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP).chain([&TRANSFER_ENCODING]) {
        headers.remove(name);
    }
}

fn append_via(headers: &mut HeaderMap, version: Version) {
    let entry = match version {
        Version::HTTP_10 => HeaderValue::from_static("1.0 hearth-gateway"),
        _ => HeaderValue::from_static("1.1 hearth-gateway"),
    };
    headers.append(VIA, entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            address: "10.0.0.9:1".parse().unwrap(),
            is_encrypted: false,
            ambiguity: std::sync::OnceLock::new(),
        }
    }

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        lines.iter().map(|(k, v)| (k.parse::<HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn fields_of_the_connection_stay_here_and_the_rest_goes_on() {
        let mut headers = fields(&[
            ("connection", "close, x-secret, content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic eDp5"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("content-length", "3"),
            ("authorization", "Bearer t"),
        ]);
        for_backend(&mut headers, &peer(), Version::HTTP_11);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let want =
            ["authorization", "content-length", "via", "x-forwarded-for", "x-forwarded-proto"];
        assert_eq!(left, want);
    }

    #[test]
    fn the_chain_of_proxies_grows() {
        let mut headers = fields(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2"),
            ("x-forwarded-proto", "https"),
            ("via", "1.1 edge"),
        ]);
        for_backend(&mut headers, &peer(), Version::HTTP_10);
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1, 192.0.2.2, 10.0.0.9");
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        let via: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(via, ["1.1 edge", "1.0 hearth-gateway"]);
    }

    #[test]
    fn a_circle_is_seen() {
        let three = "1.1 hearth-gateway, 1.1 hearth-gateway, 1.1 hearth-gateway";
        assert!(!runs_in_a_circle(&fields(&[("via", three)])));
        assert!(runs_in_a_circle(&fields(&[("via", three), ("via", "1.1 hearth-gateway")])));
    }

    #[test]
    fn headers_are_bounded_in_number_and_size() {
        let many: HeaderMap = (0..=MAX_FIELDS)
            .map(|n| (format!("x-{n}").parse::<HeaderName>().unwrap(), "1".parse().unwrap()))
            .collect();
        assert!(too_large(&many));
        assert!(too_large(&fields(&[("x", &"a".repeat(MAX_BYTES))])));
        assert!(!too_large(&fields(&[("x", &"a".repeat(MAX_BYTES - 1))])));
    }

    #[test]
    fn an_answer_names_the_revision_that_gave_it() {
        let mut headers = fields(&[("x-hearth-revision", "forged"), ("connection", "close")]);
        for_client(&mut headers, &HeaderValue::from_static("r1"), Version::HTTP_11);
        assert_eq!(headers[X_HEARTH_REVISION], "r1");
        assert!(!headers.contains_key(CONNECTION));
    }
}
