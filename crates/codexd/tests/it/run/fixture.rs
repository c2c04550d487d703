//! A `codexd run` whose output can be read while it runs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use codexd_testkit::{Home, Process, until};
use serde_json::Value;

use crate::lifecycle::{SOON, recorded};

/// It is killed when this is dropped.
pub struct Foreground {
    child: Child,
    /// `codexd run` itself, or the program that was started instead of it.
    pub process: Process,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Foreground {
    pub fn spawn(home: &Home, mut command: Command) -> anyhow::Result<Foreground> {
        let (stdout, stderr) = (home.root().join("run.out"), home.root().join("run.err"));
        command.stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let child = command.spawn()?;
        let process = Process::of(child.id()).context("it runs")?;
        Ok(Foreground { child, process, stdout, stderr })
    }

    /// What it has printed so far.
    pub fn answers(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(&self.stdout)?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// The answer of this number, once it is printed.
    pub fn answer(&mut self, index: usize) -> anyhow::Result<Value> {
        let what = format!("answer {index} of codexd run");
        let found = until(SOON, &what, || {
            // Whether it has ended before its output: what it prints stays.
            let has_ended = self.child.try_wait().ok()?.is_some();
            let answer = self.answers().ok()?.get(index).cloned();
            (has_ended || answer.is_some()).then_some(answer)
        })?;
        found.with_context(|| format!("{what}: {:?} {}", self.answers(), self.stderr()))
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// How it ended; `None` for a signal.
    pub fn exit_code(&mut self) -> anyhow::Result<Option<i32>> {
        let status = until(SOON, "the end of codexd run", || self.child.try_wait().ok()?);
        Ok(status.with_context(|| self.stderr())?.code())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The recorded server, once it is another one than `before`.
pub fn next_server(home: &Home, before: &Process) -> anyhow::Result<Process> {
    until(SOON, "the next server", || recorded(home).ok().filter(|server| server.pid != before.pid))
}

/// The events of this type so far.
pub fn events(home: &Home, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.state("events.jsonl")).unwrap_or_default();
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["type"] == kind).collect()
}
