//! A client that costs next to nothing: a blocking socket and as much of WebSocket as an app-server needs. It reads only
//! when it is told to.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::limits;

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    inbox: Vec<u8>,
    /// Where the first byte lies that was not looked at yet.
    at: usize,
    outbox: Vec<u8>,
    next_id: u64,
}

impl Wire {
    /// Connects, without `initialize`.
    ///
    /// # Errors
    /// The socket does not listen, or its listener speaks no WebSocket.
    pub fn dial(socket: &Path) -> anyhow::Result<Wire> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("failed to connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(limits::MESSAGE))?;
        let mut wire = Wire { stream, inbox: Vec::new(), at: 0, outbox: Vec::new(), next_id: 1 };
        wire.stream.write_all(
            b"GET /rpc HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )?;
        loop {
            if let Some(end) = wire.inbox.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&wire.inbox[..end]).into_owned();
                ensure!(head.starts_with("HTTP/1.1 101 "), "the handshake was refused: {head}");
                wire.at = end + 4;
                return Ok(wire);
            }
            wire.fill()?;
        }
    }

    /// Connects and introduces itself.
    ///
    /// # Errors
    /// As [`Wire::dial`] and [`Wire::call`].
    pub fn connect(socket: &Path) -> anyhow::Result<Wire> {
        let mut wire = Wire::dial(socket)?;
        let info = json!({"name": "bench", "title": "bench", "version": "1"});
        let capabilities = json!({"experimentalApi": true});
        wire.call("initialize", &json!({"clientInfo": info, "capabilities": capabilities}))?;
        wire.send(r#"{"method":"initialized"}"#)?;
        Ok(wire)
    }

    /// Sends a request and waits for its result, whatever else comes meanwhile.
    ///
    /// # Errors
    /// The connection is lost, or the request is refused.
    pub fn call(&mut self, method: &str, params: &Value) -> anyhow::Result<Value> {
        let id = self.request(method, &params.to_string())?;
        let answer = self.answer(id)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        if answer.get("error").is_some() {
            bail!("{method} was refused: {answer}");
        }
        Ok(answer["result"].clone())
    }

    /// Sends a request and waits for its answer, of which only the id is looked at.
    ///
    /// # Errors
    /// The connection is lost, or the answer is an error.
    pub fn round_trip(&mut self, method: &str, params: &str) -> anyhow::Result<()> {
        let id = self.request(method, params)?;
        let answer = self.answer(id)?;
        ensure!(is_result(&answer), "{method}: {}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    /// Sends a request; gives its id.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn request(&mut self, method: &str, params: &str) -> anyhow::Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&format!(r#"{{"id":{id},"method":"{method}","params":{params}}}"#))?;
        Ok(id)
    }

    /// The first message that answers this request.
    fn answer(&mut self, id: u64) -> anyhow::Result<Vec<u8>> {
        loop {
            let message = self.message()?;
            if answers(&message) == Some(id) {
                return Ok(message);
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn send(&mut self, text: &str) -> anyhow::Result<()> {
        // The mask is zero, which leaves the payload as it is.
        self.outbox.clear();
        self.outbox.push(0x81);
        let short = u8::try_from(text.len()).ok().filter(|&length| length < 126);
        match (short, u16::try_from(text.len())) {
            (Some(length), _) => self.outbox.push(0x80 | length),
            (None, Ok(length)) => {
                self.outbox.push(0x80 | 126);
                self.outbox.extend(length.to_be_bytes());
            }
            (None, Err(_)) => {
                self.outbox.push(0x80 | 127);
                self.outbox.extend((text.len() as u64).to_be_bytes());
            }
        }
        self.outbox.extend([0; 4]);
        self.outbox.extend(text.as_bytes());
        self.stream.write_all(&self.outbox).context("the connection is lost")
    }

    /// Sends bytes as they are: a part of a frame, or none at all.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).context("the connection is lost")
    }

    /// Ends the sending half of the connection; the other half is still read.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn half_close(&self) -> anyhow::Result<()> {
        self.stream.shutdown(Shutdown::Write).context("the connection is lost")
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// The connection is lost or closed, and the sentence has the code and the reason; or nothing came in time
    /// ([`Wire::is_timeout`]).
    pub fn message(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            self.fill()?;
        }
    }

    /// The next message if it is here already.
    ///
    /// # Errors
    /// As [`Wire::message`].
    pub fn buffered(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            let Some(frame) = Frame::parse(&self.inbox[self.at..]) else { return Ok(None) };
            let start = self.at + frame.header;
            let end = start + frame.length;
            if self.inbox.len() < end {
                return Ok(None);
            }
            let payload = self.inbox[start..end].to_vec();
            self.at = end;
            match frame.opcode {
                1 => return Ok(Some(payload)),
                8 => bail!("the server closed the connection: {}", closing(&payload)),
                9 => self.stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0])?,
                _ => {}
            }
        }
    }

    /// Reads what is there; waits if nothing is and the socket may wait.
    fn fill(&mut self) -> anyhow::Result<()> {
        if self.at > 0 {
            self.inbox.drain(..self.at);
            self.at = 0;
        }
        let held = self.inbox.len();
        self.inbox.resize(held + CHUNK, 0);
        let read = self.stream.read(&mut self.inbox[held..]);
        self.inbox.truncate(held + *read.as_ref().unwrap_or(&0));
        ensure!(read.context("no message came")? > 0, "the server cut the connection");
        Ok(())
    }

    /// Waits at most so long for bytes; `false` if none came.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn fill_within(&mut self, timeout: Duration) -> anyhow::Result<bool> {
        self.stream.set_read_timeout(Some(timeout))?;
        let filled = self.fill();
        self.stream.set_read_timeout(Some(limits::MESSAGE))?;
        match filled {
            Ok(()) => Ok(true),
            Err(error) if Wire::is_timeout(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether an error means that nothing came in time, and not that the connection is lost.
    pub fn is_timeout(error: &anyhow::Error) -> bool {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }

    /// The socket, and what was read of it and not looked at yet.
    pub fn into_parts(mut self) -> (UnixStream, Vec<u8>) {
        self.inbox.drain(..self.at);
        (self.stream, self.inbox)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame {
    /// What it is: 1 text, 8 close, 9 ping.
    pub opcode: u8,
    /// Bytes before the payload.
    pub header: usize,
    /// Bytes of the payload.
    pub length: usize,
}

impl Frame {
    /// Reads a head that a server wrote, which is never masked; `None` while it is not whole.
    pub fn parse(bytes: &[u8]) -> Option<Frame> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (header, length) = match second & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
            short => (2, usize::from(short)),
        };
        Some(Frame { opcode: first & 0x0f, header, length })
    }
}

/// The id that a message answers; `None` for requests and notifications.
pub fn answers(message: &[u8]) -> Option<u64> {
    if message.starts_with(br#"{"method":"#) {
        return None;
    }
    let quick = message.strip_prefix(br#"{"id":"#).and_then(|rest| {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest[digits..]
            .starts_with(br#","result""#)
            .then(|| std::str::from_utf8(&rest[..digits]).ok()?.parse().ok())?
    });
    quick.or_else(|| {
        let message: Value = serde_json::from_slice(message).ok()?;
        message.get("method").is_none().then(|| message["id"].as_u64()).flatten()
    })
}

/// Whether an answer is a result.
pub fn is_result(answer: &[u8]) -> bool {
    const NEAR_THE_START: usize = 40;
    let head = &answer[..answer.len().min(NEAR_THE_START)];
    head.windows(8).any(|part| part == br#""result""#)
}

fn closing(payload: &[u8]) -> String {
    match payload.split_at_checked(2) {
        Some((code, reason)) => {
            format!("{} {}", u16::from_be_bytes([code[0], code[1]]), String::from_utf8_lossy(reason))
        }
        None => "no code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, answers, is_result};

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        assert_eq!(Frame::parse(&[0x81]), None);
        assert_eq!(Frame::parse(&[0x81, 5]), Some(Frame { opcode: 1, header: 2, length: 5 }));
        assert_eq!(Frame::parse(&[0x81, 126, 1]), None);
        assert_eq!(Frame::parse(&[0x88, 126, 1, 0]), Some(Frame { opcode: 8, header: 4, length: 256 }));
    }

    #[test]
    fn an_answer_is_told_from_a_request_with_the_same_id() {
        assert_eq!(answers(br#"{"id":7,"result":{}}"#), Some(7));
        assert_eq!(answers(br#"{"id":7,"method":"x","params":{}}"#), None);
        assert_eq!(answers(br#"{"method":"x","params":{"id":7}}"#), None);
        assert!(is_result(br#"{"id":7,"result":{}}"#) && !is_result(br#"{"id":7,"error":{}}"#));
    }
}
