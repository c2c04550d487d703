//! The event log `events.jsonl`: one numbered event per line.
//!
//! Commands, the supervisor and the gateway append to one file under its lock. The next number follows from the end of the file, so it
//! continues over restarts. An incomplete line (power cut, full disk) is terminated, and its number is not used again. Past a size limit
//! the file becomes `events.jsonl.1`, and the next file continues its numbers.
//!
//! Failure modes: an event that cannot be written is lost and the caller gets an error; no command fails because of it. Of too many events of
//! one type most are dropped: they get no number, and the next event of the type has their number in `dropped`.

mod rate;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codexd_core::contract::{EventLevel, EventRecord};
use codexd_core::foreign_text::escape_json;
use codexd_core::limits::{EVENTS_LOCK_POLL_MS, EVENTS_LOCK_TIMEOUT_MS, EVENTS_MAX_BYTES, EVENTS_TAIL_BYTES};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use serde_json::{Map, Value};

use crate::{atomic, clock, ownership, poll};
use rate::Rates;

/// An event before it has a number and a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its level.
    pub level: EventLevel,
    /// Its type, such as `child.exited`.
    pub kind: Cow<'static, str>,
    /// A sentence for people.
    pub message: String,
    /// Details for programs.
    pub detail: Map<String, Value>,
}

impl Event {
    /// An event without details.
    pub fn new(level: EventLevel, kind: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let kind = kind.into();
        Self { level, kind, message: message.into(), detail: Map::new() }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}

/// The event log of one home. Clones share the rate limits.
#[derive(Clone, Debug)]
pub struct EventLog {
    path: PathBuf,
    rates: Rates,
}

impl EventLog {
    /// The log at `path`, which may be missing.
    pub fn new(path: PathBuf) -> Self {
        Self { path, rates: Rates::default() }
    }

    /// Appends an event and returns its number; `None` if it was dropped because there were too many of its type.
    ///
    /// # Errors
    /// Errors of the file system, or `WouldBlock` if another process holds the lock. The event is lost then; a part of its line may have been
    /// written, which no reader takes for an event.
    pub fn append(&self, event: &Event) -> io::Result<Option<u64>> {
        let Some(dropped) = self.rates.admit(&event.kind, Instant::now()) else { return Ok(None) };
        let written = match dropped {
            0 => self.write(event),
            _ => self.write(&event.clone().with("dropped", dropped)),
        };
        if written.is_err() {
            self.rates.count_dropped(&event.kind, dropped + 1);
        }
        written.map(Some)
    }

    /// Counts an event that was lost before it reached the log.
    pub fn count_dropped(&self, kind: &str) {
        self.rates.count_dropped(kind, 1);
    }

    fn write(&self, event: &Event) -> io::Result<u64> {
        let mut file = self.open_locked()?;
        let mut end = read_end(&mut file)?;
        if file.metadata()?.len() > EVENTS_MAX_BYTES {
            let (folder, name) = ownership::folder_of(&self.path)?;
            folder.rename(name, Path::new(self.rotated().file_name().unwrap_or_default()))?;
            file = self.open_locked()?;
            end.torn = false;
        }
        let last = match end.last_seq {
            Some(seq) => seq,
            None => self.last_seq_of_rotated(),
        };
        let record = EventRecord {
            seq: last + 1,
            created_at: clock::timestamp(),
            level: event.level,
            kind: event.kind.clone().into_owned(),
            message: event.message.clone(),
            detail: event.detail.clone(),
        };
        let mut line = if end.torn { "\n".to_owned() } else { String::new() };
        // People read this file with cat and tail.
        line.push_str(&escape_json(&serde_json::to_string(&record)?));
        line.push('\n');
        file.write_all(line.as_bytes())?;
        Ok(record.seq)
    }

    /// The newest `count` events, the oldest first. Unreadable lines are skipped.
    pub fn newest(&self, count: usize) -> Vec<EventRecord> {
        let mut records = Vec::new();
        for path in [self.rotated(), self.path.clone()] {
            if let Ok(mut file) = atomic::open_regular(&path)
                && let Ok(tail) = read_tail(&mut file)
            {
                let lines = tail.split(|&byte| byte == b'\n');
                records.extend(lines.filter_map(|line| serde_json::from_slice::<EventRecord>(line).ok()));
            }
        }
        let surplus = records.len().saturating_sub(count);
        records.split_off(surplus)
    }

    fn rotated(&self) -> PathBuf {
        self.path.with_extension("jsonl.1")
    }

    /// Opens and locks the file. Repeated if another writer rotates the file in between.
    fn open_locked(&self) -> io::Result<File> {
        let deadline = Instant::now() + Duration::from_millis(EVENTS_LOCK_TIMEOUT_MS);
        loop {
            let file = ownership::open_file(&self.path, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)?;
            atomic::allow_owner(&file)?;
            lock(&file, deadline)?;
            if is_at(&file, &self.path) {
                return Ok(file);
            }
        }
    }

    /// The last number of the rotated file; if that is unreadable, a number that no earlier event can have: the milliseconds since 1970.
    fn last_seq_of_rotated(&self) -> u64 {
        let Ok(mut file) = atomic::open_regular(&self.rotated()) else {
            return self.never_reached_if_not_empty();
        };
        match read_end(&mut file) {
            Ok(End { last_seq: Some(seq), .. }) => seq,
            _ => never_reached(),
        }
    }

    fn never_reached_if_not_empty(&self) -> u64 {
        if std::fs::metadata(&self.path).is_ok_and(|found| found.len() > 0) { never_reached() } else { 0 }
    }
}

/// Locks the file. flock(2) has no timeout, and a writer may be suspended while it holds the lock.
fn lock(file: &File, deadline: Instant) -> io::Result<()> {
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                poll::pause(Duration::from_millis(EVENTS_LOCK_POLL_MS));
            }
            Err(Errno::WOULDBLOCK) => {
                let message = format!("another process has held its lock for {EVENTS_LOCK_TIMEOUT_MS} ms");
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
            other => return Ok(other?),
        }
    }
}

fn never_reached() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

struct End {
    /// The greatest number that a line at the end of the file has or may have had.
    last_seq: Option<u64>,
    /// Whether the last line is incomplete.
    torn: bool,
}

fn read_end(file: &mut File) -> io::Result<End> {
    let tail = read_tail(file)?;
    let torn = tail.last().is_some_and(|&byte| byte != b'\n');
    let mut last_seq = None;
    for line in tail.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        // An incomplete line may have lost its number: the next number is skipped then.
        let seq = seq_of(line).or_else(|| last_seq.map(|seq| seq + 1));
        last_seq = last_seq.max(seq);
    }
    Ok(End { last_seq, torn })
}

/// The number of a line, complete or not.
fn seq_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(br#"{"seq":"#)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // If the line ends in digits, some of the number may be missing.
    (digits < rest.len()).then(|| std::str::from_utf8(&rest[..digits]).ok()?.parse().ok())?
}

fn read_tail(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(EVENTS_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(EVENTS_TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::{Event, EventLog};
    use codexd_core::contract::EventLevel;
    use codexd_core::limits::EVENTS_MAX_BYTES;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn event() -> Event {
        Event::new(EventLevel::Info, "test.happened", "it happened").with("n", 1)
    }

    /// Returns an error, with nothing written, if other writers hold the lock for too long.
    fn appended(log: &EventLog) -> u64 {
        loop {
            match log.append(&event()) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                number => return number.expect("appended").expect("not dropped"),
            }
        }
    }

    /// As another process would: it counts for itself.
    fn anew(log: &EventLog) -> EventLog {
        EventLog::new(log.path.clone())
    }

    #[test]
    fn one_type_of_event_does_not_erase_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = EventLog::new(folder.path().join("events.jsonl"));
        let other = Event::new(EventLevel::Info, "test.once", "it happened once");
        assert_eq!(log.append(&other).expect("appended"), Some(1));
        let written = (0..14_000).filter_map(|_| log.append(&event()).expect("appended")).count();
        assert_eq!(written, 64);
        let records = log.newest(1_000);
        assert_eq!((records.len(), &*records[0].kind), (65, "test.once"));
        assert!(records.iter().map(|record| record.seq).eq(1..=65), "no number is passed over");
        log.count_dropped("test.once");
        assert_eq!(log.append(&other).expect("appended"), Some(66));
        assert_eq!(log.newest(1)[0].detail["dropped"], 1);
    }

    #[test]
    fn eight_writers_at_once_share_no_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = EventLog::new(folder.path().join("events.jsonl"));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let log = anew(&log);
                std::thread::spawn(move || (0..50).map(|_| appended(&log)).collect::<Vec<_>>())
            })
            .collect();
        let seqs: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().expect("joined")).collect();
        assert_eq!(seqs.iter().collect::<HashSet<_>>().len(), 400);
        assert_eq!(log.newest(1000).len(), 400);
    }

    #[test]
    fn numbers_go_on_over_a_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let log = EventLog::new(path.clone());
        let first = appended(&log);
        let line = std::fs::read(&path).expect("read");
        let filler = line.repeat(usize::try_from(EVENTS_MAX_BYTES).expect("fits") / line.len() + 1);
        std::fs::write(&path, filler).expect("grown");
        assert_eq!((appended(&log), appended(&log)), (first + 1, first + 2));
        assert!(std::fs::metadata(&path).expect("there").len() < 1_000, "a fresh file");
    }

    #[test]
    fn a_writer_that_keeps_the_lock_costs_the_event_and_not_the_caller() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let log = EventLog::new(path.clone());
        let first = appended(&log);
        let holder = std::fs::File::open(&path).expect("opened");
        holder.lock().expect("locked");
        let error = log.append(&event()).expect_err("the lock is held");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        drop(holder);
        assert_eq!(appended(&log), first + 1);
        assert_eq!(log.newest(1)[0].detail["dropped"], 1, "it is told that one was lost");
    }

    #[test]
    fn a_fifo_in_the_place_of_the_log_holds_nobody_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("made");
        assert!(EventLog::new(path).newest(1).is_empty());
    }

    proptest! {
        #[test]
        fn a_number_never_repeats_wherever_the_last_line_was_cut(keep in 0usize..600, rubbish: Vec<u8>) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("events.jsonl");
            let log = EventLog::new(path.clone());
            let mut seen: Vec<u64> = (0..4).map(|_| appended(&log)).collect();
            let mut bytes = std::fs::read(&path).expect("read");
            bytes.truncate(keep.max(1));
            bytes.extend(rubbish);
            // Numbers of lines that are gone without a trace may come again: no reader has them any more.
            let whole = bytes.split(|&byte| byte == b'\n').filter(|line| line.ends_with(b"}")).count();
            seen.truncate(whole);
            std::fs::write(&path, &bytes).expect("cut");
            let next = appended(&log);
            prop_assert!(!seen.contains(&next), "{next} was in {seen:?}");
            let newest = log.newest(1).pop().expect("the new line is whole");
            prop_assert_eq!(newest.seq, next);
        }
    }
}
