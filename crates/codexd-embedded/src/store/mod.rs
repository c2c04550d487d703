//! Threads on disk: one file of JSON lines per thread, and the writer locks.
//!
//! A record is appended with one `write`, so a file ends with a whole line unless the machine itself went down; a last
//! line that is cut is skipped when it is read and closed when the file is next written. Nothing is synced: after a
//! power failure the newest turns may be missing, as upstream's may.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::ids::ThreadId;
use crate::model::transcript::{Record, Transcript};
use crate::{regular_file, rollout};

pub(crate) mod locks;

/// The files of one home.
#[derive(Debug)]
pub(crate) struct Store {
    codex_home: PathBuf,
    /// Files that are being written.
    open: HashMap<ThreadId, File>,
    /// Transcripts that were read, with the file's stamp at that time.
    read: HashMap<PathBuf, (Stamp, Arc<Transcript>)>,
}

/// Identity, size and time of a file: if they are unchanged, so is the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    bytes: u64,
    modified: SystemTime,
}

impl Store {
    pub(crate) fn new(codex_home: PathBuf) -> Self {
        Self { codex_home, open: HashMap::new(), read: HashMap::new() }
    }

    /// Looks for a thread, and says whether it is archived.
    pub(crate) fn find(&mut self, thread: ThreadId) -> Option<(Arc<Transcript>, bool)> {
        [false, true].into_iter().find_map(|archived| {
            let path = rollout::path(&self.codex_home, thread, archived);
            self.transcript(&path).map(|transcript| (transcript, archived))
        })
    }

    /// All threads, or all archived ones, in no order.
    pub(crate) fn all(&mut self, archived: bool) -> Vec<Arc<Transcript>> {
        let mut files = Vec::new();
        collect(&rollout::folder(&self.codex_home, archived), &mut files);
        files.iter().filter_map(|path| self.transcript(path)).collect()
    }

    /// Adds a record to the file of a thread, which the first record makes.
    pub(crate) fn append(&mut self, thread: ThreadId, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if !self.open.contains_key(&thread) {
            let file = open_for_append(&rollout::path(&self.codex_home, thread, false))?;
            self.open.insert(thread, file);
        }
        match self.open.get_mut(&thread) {
            Some(file) => file.write_all(&line),
            None => Ok(()),
        }
    }

    /// Moves the file of a thread into the archive, or out of it.
    pub(crate) fn relocate(&mut self, thread: ThreadId, archived: bool) -> io::Result<()> {
        self.close(thread);
        let from = rollout::path(&self.codex_home, thread, !archived);
        let to = rollout::path(&self.codex_home, thread, archived);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        self.read.remove(&from);
        fs::rename(from, to)
    }

    /// Closes the file of a thread.
    pub(crate) fn close(&mut self, thread: ThreadId) {
        self.open.remove(&thread);
    }

    fn transcript(&mut self, path: &Path) -> Option<Arc<Transcript>> {
        let look = fs::metadata(path).ok()?;
        let stamp = Stamp { bytes: look.len(), modified: look.modified().ok()? };
        match self.read.get(path) {
            Some((known, transcript)) if *known == stamp => Some(Arc::clone(transcript)),
            _ => {
                let transcript = Arc::new(parse(&regular_file::read_to_string(path).ok()?)?);
                self.read.insert(path.to_owned(), (stamp, Arc::clone(&transcript)));
                Some(transcript)
            }
        }
    }
}

/// Reads a file's lines, as far as they are records.
fn parse(text: &str) -> Option<Transcript> {
    Transcript::replay(text.lines().filter_map(|line| serde_json::from_str(line).ok()))
}

fn open_for_append(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = regular_file::open(OpenOptions::new().read(true).append(true).create(true), path)?;
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().and_then(rollout::thread_of).is_some();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), files);
        } else if is_ours {
            files.push(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
