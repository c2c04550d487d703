//! The HTTP before the WebSocket, from both ends.

use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::{HeaderValue, StatusCode};

use super::FRAME_BYTES_MAX;

/// The header in which upstream tells the largest frame, and so do we.
const FRAME_HEADER: &str = "x-codex-websocket-max-unfragmented-message-bytes";

/// What the first bytes of a client are.
#[derive(Debug)]
pub enum Asked {
    /// Not all of it is there.
    Incomplete,
    /// A request, and how many bytes it took.
    Request(usize, Box<Request>),
    /// Nothing that we understand.
    Garbage,
}

/// Reads the head of a request.
pub fn parse_request(bytes: &[u8]) -> Asked {
    match Request::try_parse(bytes) {
        Ok(None) => Asked::Incomplete,
        Ok(Some((length, request))) => Asked::Request(length, Box::new(request)),
        Err(_) => Asked::Garbage,
    }
}

/// The answer that turns the connection into a WebSocket; `None` if the request does not ask for one.
pub fn switch(request: &Request) -> Option<Vec<u8>> {
    let mut response = create_response(request).ok()?;
    response.headers_mut().insert(FRAME_HEADER, HeaderValue::from(FRAME_BYTES_MAX));
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).ok()?;
    Some(bytes)
}

/// An answer after which the connection is closed.
pub fn answer(status: StatusCode, body: &str) -> Vec<u8> {
    let kind = if body.is_empty() { "" } else { "content-type: text/plain; charset=utf-8\r\n" };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{kind}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

/// The request of a client, and its key.
pub fn ask() -> (Vec<u8>, String) {
    let key = generate_key();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    (request.into_bytes(), key)
}

/// Reads the answer to [`ask`]: how many bytes it took, `None` if not all of it is there.
///
/// # Errors
/// Why there will be no WebSocket.
pub fn parse_answer(bytes: &[u8], key: &str) -> Result<Option<usize>, String> {
    let Some((length, response)) = Response::try_parse(bytes).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the WebSocket upgrade was answered with {}", response.status()));
    }
    let proof = response.headers().get("Sec-WebSocket-Accept").map(HeaderValue::as_bytes);
    if proof != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err("the upgrade response does not match the request".into());
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::{Asked, ask, parse_answer, parse_request, switch};

    #[test]
    fn both_ends_understand_each_other_and_leave_what_follows() {
        let (mut request, key) = ask();
        assert!(matches!(parse_request(&request[..request.len() - 1]), Asked::Incomplete));
        let length = request.len();
        request.extend_from_slice(b"frames");
        let Asked::Request(taken, request) = parse_request(&request) else { panic!("a request") };
        assert_eq!(taken, length);
        let mut answer = switch(&request).expect("it asks for a WebSocket");
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{text}");
        assert!(text.contains("x-codex-websocket-max-unfragmented-message-bytes: 16777216\r\n"), "{text}");
        assert_eq!(parse_answer(&answer[..20], &key), Ok(None));
        let length = answer.len();
        answer.extend_from_slice(b"frames");
        assert_eq!(parse_answer(&answer, &key), Ok(Some(length)));
        assert!(parse_answer(&answer, "another key").is_err());
    }

    #[test]
    fn plain_http_asks_for_no_websocket() {
        let Asked::Request(_, request) = parse_request(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") else {
            panic!("a request")
        };
        assert!(switch(&request).is_none());
        assert!(matches!(parse_request(b"\x16\x03\x01 tls?\r\n\r\n"), Asked::Garbage));
        assert!(parse_answer(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "k").is_err());
    }
}
