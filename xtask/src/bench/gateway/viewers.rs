//! Many viewers of one turn, drained by one thread that does hardly more than count.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use codexd_testkit::wire::{Frame, Wire};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

/// The beginning of a message is enough to know its method.
const LOOKED_AT: usize = 64;
/// How much is read at once.
const CHUNK: usize = 256 << 10;
/// How long nothing at all may come.
const TIMEOUT: Duration = Duration::from_secs(60);

const USUAL_DELTA: &[u8] = br#"{"method":"item/agentMessage/delta""#;
const DELTA: &[u8] = br#""item/agentMessage/delta""#;
const END: &[u8] = br#""turn/completed""#;

/// The viewers of one turn.
pub struct Viewers {
    epoll: OwnedFd,
    viewers: Vec<Viewer>,
}

/// What they saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// From the first delta at anybody until the last one at the last viewer.
    pub streaming: Duration,
    /// Deltas that the last viewer got.
    pub fewest: usize,
    /// Viewers whom the server cut.
    pub cut: usize,
}

struct Viewer {
    stream: UnixStream,
    /// The start of a frame that is not whole yet.
    partial: Vec<u8>,
    /// Bytes of the payload of the last frame that are still to come.
    skip: usize,
    deltas: usize,
    ended: bool,
    gone: bool,
}

impl Viewers {
    /// Takes over the connections of viewers who have subscribed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(wires: Vec<Wire>) -> anyhow::Result<Viewers> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut viewers = Vec::with_capacity(wires.len());
        for (number, wire) in wires.into_iter().enumerate() {
            let (stream, held) = wire.into_parts();
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
            let mut viewer =
                Viewer { stream, partial: Vec::new(), skip: 0, deltas: 0, ended: false, gone: false };
            viewer.take(&held)?;
            viewer.deltas = 0;
            viewer.ended = false;
            viewers.push(viewer);
        }
        Ok(Viewers { epoll, viewers })
    }

    /// Counts until every viewer has seen the end of the turn, or was cut.
    ///
    /// # Errors
    /// Nothing came for long.
    pub fn watch(&mut self) -> anyhow::Result<Seen> {
        let timeout = Timespec::try_from(TIMEOUT)?;
        let mut chunk = vec![0; CHUNK];
        let mut events = Vec::with_capacity(self.viewers.len().max(1));
        let (mut first, mut last) = (None, Instant::now());
        let mut open = self.viewers.len();
        while open > 0 {
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
            ensure!(!events.is_empty(), "nothing came for {TIMEOUT:?}; {open} viewers still wait");
            for event in &events {
                let number = usize::try_from(event.data.u64()).context("it was a number")?;
                let viewer = &mut self.viewers[number];
                let (before, was_open) = (viewer.deltas, !viewer.ended && !viewer.gone);
                viewer.drain(&mut chunk)?;
                if viewer.deltas > before {
                    last = Instant::now();
                    first.get_or_insert(last);
                }
                if viewer.gone {
                    epoll::delete(&self.epoll, &viewer.stream)?;
                }
                open -= usize::from(was_open && (viewer.ended || viewer.gone));
            }
        }
        let Some(first) = first else { bail!("no viewer saw a delta") };
        let fewest = self.viewers.iter().map(|viewer| viewer.deltas).min().unwrap_or(0);
        let cut = self.viewers.iter().filter(|viewer| viewer.gone).count();
        Ok(Seen { streaming: last - first, fewest, cut })
    }
}

impl Viewer {
    /// Reads what is there.
    fn drain(&mut self, chunk: &mut [u8]) -> anyhow::Result<()> {
        match self.stream.read(chunk) {
            Ok(0) => self.gone = true,
            Ok(length) => self.take(&chunk[..length])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.gone = true,
            Err(error) => return Err(error).context("failed to read"),
        }
        Ok(())
    }

    /// Looks through bytes as they came.
    fn take(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
            } else if self.partial.is_empty() {
                match looked_at(bytes) {
                    Some((frame, shown)) => {
                        self.see(frame, &bytes[frame.header..shown]);
                        self.skip = frame.header + frame.length - shown;
                        bytes = &bytes[shown..];
                    }
                    None => {
                        self.partial.extend(bytes);
                        return Ok(());
                    }
                }
            } else {
                // A few bytes at a time, so that none belongs to a later frame.
                self.partial.push(bytes[0]);
                bytes = &bytes[1..];
                if let Some((frame, shown)) = looked_at(&self.partial) {
                    ensure!(shown == self.partial.len(), "a frame was read too far");
                    let partial = std::mem::take(&mut self.partial);
                    self.see(frame, &partial[frame.header..shown]);
                    self.skip = frame.header + frame.length - shown;
                }
            }
        }
        Ok(())
    }

    fn see(&mut self, frame: Frame, beginning: &[u8]) {
        match frame.opcode {
            1 if beginning.starts_with(USUAL_DELTA) || contains(beginning, DELTA) => self.deltas += 1,
            1 if contains(beginning, END) => self.ended = true,
            8 => self.gone = true,
            _ => {}
        }
    }
}

/// A frame and how many of the bytes are needed to know what it is, if they are here.
fn looked_at(bytes: &[u8]) -> Option<(Frame, usize)> {
    let frame = Frame::parse(bytes)?;
    let shown = frame.header + frame.length.min(LOOKED_AT);
    (bytes.len() >= shown).then_some((frame, shown))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::Viewer;

    #[test]
    fn deltas_are_counted_however_the_bytes_are_cut() {
        let mut stream = Vec::new();
        for method in ["item/agentMessage/delta", "turn/started", "item/agentMessage/delta", "turn/completed"]
        {
            let text = format!(r#"{{"method":"{method}","params":{{"text":"{}"}}}}"#, "x".repeat(100));
            stream.extend([0x81, 126]);
            stream.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
            stream.extend(text.as_bytes());
        }
        for size in 1..stream.len() {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let mut viewer =
                Viewer { stream: ours, partial: Vec::new(), skip: 0, deltas: 0, ended: false, gone: false };
            theirs.write_all(&stream).expect("it fits");
            for _ in 0..stream.len().div_ceil(size) {
                viewer.drain(&mut vec![0; size]).expect("there");
            }
            assert_eq!((viewer.deltas, viewer.ended), (2, true), "in pieces of {size}");
        }
    }
}
