//! The progress of an install: one line on stderr that is written again and again, if that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use codexd_core::foreign_text::quote;
use codexd_release::{Observer, Phase, Progress};

use crate::limits::{INSTALL_PROGRESS_INTERVAL, INSTALL_RATE_AFTER};
use crate::style;

/// Erases the line of the cursor.
const ERASE: &str = "\r\u{1b}[K";

/// Prints the progress.
#[derive(Debug)]
pub struct InstallProgress {
    is_terminal: bool,
    phase: Option<(Phase, Instant)>,
    printed: Option<Instant>,
}

impl InstallProgress {
    /// On stderr, if that is a terminal; else nothing is printed.
    pub fn to_stderr() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), phase: None, printed: None }
    }

    /// Removes the line.
    pub fn end(&mut self) {
        if self.printed.take().is_some() {
            let _ = io::stderr().write_all(ERASE.as_bytes());
        }
    }

    fn print(&mut self, progress: Progress<'_>, now: Instant) {
        let began = match self.phase {
            Some((phase, began)) if phase == progress.phase => began,
            _ => self.phase.insert((progress.phase, now)).1,
        };
        if self.printed.is_some_and(|printed| now.duration_since(printed) < INSTALL_PROGRESS_INTERVAL) {
            return;
        }
        self.printed = Some(now);
        let line = line(progress, now.duration_since(began));
        // A closed stderr is ignored.
        let _ = io::stderr().write_all(format!("{ERASE}{line}").as_bytes());
    }
}

impl Observer for InstallProgress {
    fn progress(&mut self, progress: Progress<'_>) {
        if self.is_terminal {
            self.print(progress, Instant::now());
        }
    }
}

/// `fetching X: 12.3 MB of 172.0 MB, 4.1 MB/s, 39 s left`
fn line(progress: Progress<'_>, elapsed: std::time::Duration) -> String {
    let mut line = progress.phase.as_str().to_owned();
    if !progress.subject.is_empty() {
        line += &format!(" {}", quote(progress.subject));
    }
    let Some(done) = progress.done else {
        return line + &format!(" ({})", style::duration(elapsed.as_secs()));
    };
    line += &format!(": {}", megabytes(done));
    if let Some(total) = progress.total {
        line += &format!(" of {}", megabytes(total));
    }
    if elapsed >= INSTALL_RATE_AFTER && done > 0 {
        let rate = done as f64 / elapsed.as_secs_f64();
        line += &format!(", {}/s", megabytes(rate as u64));
        if let Some(left) = progress.total.map(|total| total.saturating_sub(done)).filter(|left| *left > 0) {
            line += &format!(", {} left", style::duration((left as f64 / rate).ceil() as u64));
        }
    }
    line
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::line;
    use codexd_release::{Phase, Progress};
    use std::time::Duration;

    #[test]
    fn a_line_has_bytes_rate_and_time_left_as_far_as_they_are_known() {
        let mut progress = Progress {
            phase: Phase::Verifying,
            subject: "x.tgz",
            done: Some(43_000_000),
            total: Some(172_000_000),
        };
        let at = |progress, seconds| line(progress, Duration::from_secs(seconds));
        assert_eq!(at(progress, 10), "verifying x.tgz: 43.0 MB of 172.0 MB, 4.3 MB/s, 30 s left");
        assert_eq!(at(progress, 0), "verifying x.tgz: 43.0 MB of 172.0 MB");
        progress.total = None;
        assert_eq!(at(progress, 10), "verifying x.tgz: 43.0 MB, 4.3 MB/s");
        progress.done = None;
        progress.subject = "a\u{1b}[2Jb";
        assert_eq!(at(progress, 65), "verifying a\\x1b[2Jb (1 min 5 s)");
    }
}
