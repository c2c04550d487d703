//! `codexd proxy --lines`: each line of stdin and of stdout is one message, for scripts without WebSocket.
//!
//! One thread sends the lines of stdin, one prints the messages of the server. The first of them that knows the result reports
//! it to the main thread. Neither buffers more than one message: if the server does not read, stdin is not read; if the reader
//! of stdout does not read, the socket is not read.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::foreign_text::quote;
use codexd_core::limits::PROXY_HANDSHAKE_SECONDS;
use codexd_protocol::websocket::{Decoder, Frame, Incoming, MESSAGE_BYTES_MAX, Rules, Text, handshake};
use codexd_protocol::{Message, RequestId, parse};

use super::{gone, unwritable};
use crate::limits::PROXY_BUFFER_BYTES;

const NORMAL: u16 = 1000;

/// Runs until stdin has ended and every request has its response, or until something fails.
pub(super) fn run(stream: UnixStream, socket: &Path) -> Result<(), Failure> {
    let rest = shake_hands(&stream)
        .map_err(|why| gone(format!("WebSocket handshake on {} failed: {why}", socket.display()), socket))?;
    let failed = |error: io::Error| Failure::new(ErrorCode::Internal, format!("failed to start: {error}"));
    let sending = stream.try_clone().map_err(failed)?;
    let session =
        Arc::new(Session { sending: Mutex::new(sending), open: Mutex::default(), socket: socket.to_owned() });
    let (result, outcome) = mpsc::channel();
    let (sender, result_of_sender) = (Arc::clone(&session), result.clone());
    thread::spawn(move || sender.send_stdin(&result_of_sender));
    let receiver = Arc::clone(&session);
    thread::spawn(move || result.send(receiver.receive(stream, &rest)));
    let outcome = outcome.recv().unwrap_or(Ok(()));
    if outcome.is_ok() {
        // The server also accepts a connection that ends without a close frame.
        let _ = session.send([Frame::close(NORMAL, "")]);
    }
    outcome
}

/// Returns the bytes behind the response.
fn shake_hands(mut stream: &UnixStream) -> Result<Vec<u8>, String> {
    let text = |error: io::Error| error.to_string();
    stream.set_read_timeout(Some(Duration::from_secs(PROXY_HANDSHAKE_SECONDS))).map_err(text)?;
    let (request, key) = handshake::ask();
    stream.write_all(&request).map_err(text)?;
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        if let Some(length) = handshake::parse_answer(&head, &key)? {
            stream.set_read_timeout(None).map_err(text)?;
            return Ok(head.split_off(length));
        }
        match stream.read(&mut piece).map_err(text)? {
            0 => return Err("the server closed the connection".into()),
            count => head.extend_from_slice(&piece[..count]),
        }
        if head.len() > PROXY_BUFFER_BYTES {
            return Err("the response is not HTTP".into());
        }
    }
}

struct Session {
    sending: Mutex<UnixStream>,
    open: Mutex<Open>,
    socket: PathBuf,
}

/// What the proxy still waits for.
#[derive(Default)]
struct Open {
    /// The number of requests without a response, by id: an id may be in use twice.
    unanswered: HashMap<RequestId, usize>,
    stdin_ended: bool,
}

impl Open {
    fn is_over(&self) -> bool {
        self.stdin_ended && self.unanswered.is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// Sends the lines of stdin. Reports the end of stdin only if no response is missing.
    fn send_stdin(&self, result: &Sender<Result<(), Failure>>) {
        let outcome = self.send_lines();
        let mut open = lock(&self.open);
        open.stdin_ended = true;
        match outcome {
            Err(failure) => drop(result.send(Err(failure))),
            Ok(()) if open.is_over() => drop(result.send(Ok(()))),
            Ok(()) => {}
        }
    }

    fn send_lines(&self) -> Result<(), Failure> {
        let mut stdin = BufReader::with_capacity(PROXY_BUFFER_BYTES, io::stdin().lock());
        let mut frames = Vec::new();
        let mut gathered = 0;
        for number in 1_u64.. {
            let Some(line) = next_line(&mut stdin, number)? else { break };
            if let Some(text) = line {
                self.count_request(&text);
                gathered += text.len();
                frames.extend(Frame::of(text));
            }
            if (gathered >= PROXY_BUFFER_BYTES || !stdin.buffer().contains(&b'\n')) && !frames.is_empty() {
                gathered = 0;
                // The other thread reports why the connection failed.
                if self.send(frames.drain(..)).is_err() {
                    break;
                }
            }
        }
        let _ = self.send(frames);
        Ok(())
    }

    fn count_request(&self, text: &str) {
        if let Ok(message @ Message::Request { .. }) = parse(text)
            && let Some(id) = message.request_id()
        {
            *lock(&self.open).unanswered.entry(id).or_default() += 1;
        }
    }

    /// Flushes stdout, then counts the responses as printed: the main thread may exit at once.
    fn settle(&self, stdout: &mut impl Write, answered: &mut Vec<RequestId>) -> Result<(), Failure> {
        stdout.flush().map_err(|error| unwritable(&error))?;
        let mut open = lock(&self.open);
        for id in answered.drain(..) {
            if let Some(count) = open.unanswered.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    open.unanswered.remove(&id);
                }
            }
        }
        Ok(())
    }

    fn send(&self, frames: impl IntoIterator<Item = Frame>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend_from_slice(frame.header(true).as_slice());
            bytes.extend_from_slice(frame.payload());
        }
        // Frames are sent under one lock, so that a pong of the other thread does not split them.
        lock(&self.sending).write_all(&bytes)
    }

    /// Prints the messages of the server.
    fn receive(&self, mut stream: UnixStream, rest: &[u8]) -> Result<(), Failure> {
        let mut decoder = Decoder::new(Rules {
            masked: false,
            frame_bytes_max: usize::MAX,
            message_bytes_max: usize::MAX,
            skipped_bytes_max: usize::MAX,
        });
        let mut stdout = BufWriter::with_capacity(PROXY_BUFFER_BYTES, io::stdout().lock());
        let mut buffer = vec![0; PROXY_BUFFER_BYTES];
        let mut bytes = rest;
        let mut answered = Vec::new();
        loop {
            while let Some(incoming) = decoder
                .next(&mut bytes)
                .map_err(|fault| self.ended(&format!("protocol error: {}", fault.reason)))?
            {
                match incoming {
                    Incoming::Text(text) => {
                        print(&mut stdout, &text).map_err(|error| unwritable(&error))?;
                        answered.extend(answer_to(&text));
                    }
                    // This decoder has no limit.
                    Incoming::TooLarge(_) => {}
                    Incoming::Ping(payload) => drop(self.send([Frame::pong(payload)])),
                    Incoming::Close { code, reason } => {
                        self.settle(&mut stdout, &mut answered)?;
                        let code = code.map_or("no code".into(), |code| code.to_string());
                        return self.over_or(&format!(
                            "the server closed the connection ({code}: {})",
                            quote(&reason)
                        ));
                    }
                }
            }
            self.settle(&mut stdout, &mut answered)?;
            if lock(&self.open).is_over() {
                return Ok(());
            }
            match stream.read(&mut buffer) {
                Ok(0) => return self.over_or("the server closed the connection"),
                Ok(count) => bytes = &buffer[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => bytes = &[],
                Err(error) => return self.over_or(&format!("connection lost: {error}")),
            }
        }
    }

    fn over_or(&self, why: &str) -> Result<(), Failure> {
        if lock(&self.open).is_over() { Ok(()) } else { Err(self.ended(why)) }
    }

    /// The server closed the connection too early.
    fn ended(&self, why: &str) -> Failure {
        let unanswered: usize = lock(&self.open).unanswered.values().sum();
        gone(format!("{}: {why}; unanswered requests: {unanswered}", self.socket.display()), &self.socket)
            .hint("check with `codexd status` whether a server runs, then run the command again")
            .with("unanswered", unanswered)
    }
}

fn print(stdout: &mut impl Write, text: &str) -> io::Result<()> {
    if text.contains(['\n', '\r']) {
        // Line breaks between the tokens of JSON mean nothing, and a string cannot contain them.
        stdout.write_all(text.replace(['\n', '\r'], " ").as_bytes())?;
    } else {
        stdout.write_all(text.as_bytes())?;
    }
    stdout.write_all(b"\n")
}

/// The id of the request that a message responds to.
fn answer_to(text: &str) -> Option<RequestId> {
    match parse(text) {
        Ok(message @ Message::Response { .. }) => message.request_id(),
        _ => None,
    }
}

/// The next line; the inner `None` is an empty line.
fn next_line(stdin: &mut impl BufRead, number: u64) -> Result<Option<Option<Text>>, Failure> {
    let refused = |why: &str| Failure::new(ErrorCode::BadArguments, format!("line {number} of stdin {why}"));
    let mut line = Vec::new();
    let most = MESSAGE_BYTES_MAX as u64 + 2;
    let read = stdin.take(most).read_until(b'\n', &mut line);
    read.map_err(|error| refused(&format!("cannot be read: {error}")))?;
    if line.is_empty() {
        return Ok(None);
    }
    let text = line.trim_ascii();
    if text.len() > MESSAGE_BYTES_MAX {
        return Err(refused("is larger than 64 MiB, the limit for a message"));
    }
    let text = std::str::from_utf8(text).map_err(|_| refused("is not UTF-8"))?;
    Ok(Some((!text.is_empty()).then(|| text.into())))
}
