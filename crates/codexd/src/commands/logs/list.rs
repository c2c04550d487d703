//! `codexd logs --list`: the log files that exist.

use std::path::PathBuf;

use codexd_host::{Home, logs};
use serde::Serialize;

use super::Log;
use crate::output::Answer;
use crate::style::{self, Text};

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    status: &'static str,
    logs: Vec<LogFile>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogFile {
    process: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'static str>,
    path: PathBuf,
    bytes: u64,
    /// When it was last written, in RFC 3339; null if the file system does not record it.
    modified_at: Option<String>,
    /// Whether the file holds the older lines of a rotated log.
    rotated: bool,
}

impl Answer for Reply {
    fn text(&self) -> Text {
        if self.logs.is_empty() {
            return "no logs yet".into();
        }
        let mut rows = vec![Text::from(format!("{:<19}  {:>9}  path", "process", "bytes"))];
        rows.extend(self.logs.iter().map(|log| {
            let stream = log.stream.map(|stream| format!(" {stream}")).unwrap_or_default();
            let name = format!("{}{stream}", log.process);
            Text::from(format!("{name:<19}  {:>9}  {}", log.bytes, log.path.display()))
        }));
        style::lines(rows)
    }
}

/// Runs the command.
pub fn run(home: &Home) -> Reply {
    let logs = Log::all(home).into_iter().flat_map(|log| {
        let rotated = logs::rotated(&log.path);
        let Log { process, stream, path } = log;
        [(path, false), (rotated, true)].into_iter().filter_map(move |(path, rotated)| {
            let found = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
            let modified = found.modified().ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
            let modified_at = modified.map(|at| format!("{at:.3}"));
            Some(LogFile { process, stream, path, bytes: found.len(), modified_at, rotated })
        })
    });
    Reply { status: "ok", logs: logs.collect() }
}
