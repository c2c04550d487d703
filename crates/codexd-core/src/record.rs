//! The record of the current app-server, `server.json`, and `app-server.pid` of upstream's daemon: who the running server is.
//!
//! We write upstream's form with our own facts beside it, and read every form that upstream ever wrote: the 0.131 era
//! knew a process by the text of `ps`, 0.169.0 by boot id and start ticks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::foreign_text::quote;
use crate::identity::{FileIdentity, Pid, Process, ProcessIdentity};
use crate::launch_spec::NamedCodex;
use crate::lstart;

/// Why the process of a record is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gone {
    /// No process has the pid.
    Stale,
    /// Another process has the pid now.
    Reused,
    /// It has exited and was not reaped.
    Zombie,
    /// The record is from before the last boot.
    Reboot,
    /// The process with the pid is not an app-server.
    Foreign,
    /// The record is from another pid namespace, which no longer serves the home.
    OtherNamespace,
}

/// A pid record as it is written.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PidRecord {
    /// The server's process.
    pub pid: Pid,
    /// When it started, as `ps -o lstart=` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_start_time: Option<String>,
    /// What tells it from a later process of the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_identity: Option<ProcessIdentity>,
    /// The pid namespace in which the number is true; null in a record of another program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    /// What codexd adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codexd: Option<CodexdRecord>,
}

/// What codexd adds to a pid record.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CodexdRecord {
    /// The mark that the server and everything it starts carry in `CODEXD_GENERATION`.
    #[serde(default)]
    pub generation: Option<String>,
    /// The executable that was run.
    pub executable: PathBuf,
    /// What that file was.
    #[serde(default)]
    pub executable_identity: Option<FileIdentity>,
    /// Whether it is the server built into codexd.
    #[serde(default)]
    pub embedded: bool,
    /// The socket of its own that it listens on, behind a gateway; `None` for one that listens on the control socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The Codex that `--codex-bin` named for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<NamedCodex>,
}

impl PidRecord {
    /// The recorded process, if the record names it beyond its number.
    pub fn process(&self) -> Option<Process> {
        let identity = self.process_identity.clone()?;
        Some(Process { pid: self.pid, identity })
    }
}

/// Why a pid record identifies no process.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordDefect {
    /// Nothing is in it: upstream leaves that when it is killed while it starts a server.
    #[error("the pid record is empty")]
    Empty,
    /// It is not a record.
    #[error("the pid record cannot be parsed: {0}")]
    Garbage(String),
    /// It names process 0, or one that no kernel gives out.
    #[error("the pid record contains the invalid pid {0}")]
    ImpossiblePid(u32),
    /// It names a process by nothing but its number.
    #[error("the pid record identifies process {0} by pid only")]
    Unidentified(u32),
}

/// Reads a pid record in any form.
///
/// # Errors
/// What is wrong with the text, if it identifies no process.
pub fn parse(bytes: &[u8]) -> Result<PidRecord, RecordDefect> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(RecordDefect::Empty);
    }
    let record: PidRecord =
        serde_json::from_slice(bytes).map_err(|error| RecordDefect::Garbage(quote(&error.to_string())))?;
    let pid = record.pid.0;
    if pid == 0 || i32::try_from(pid).is_err() {
        return Err(RecordDefect::ImpossiblePid(pid));
    }
    if record.process_identity.is_none() && record.process_start_time.is_none() {
        return Err(RecordDefect::Unidentified(pid));
    }
    Ok(record)
}

/// What the kernel shows about the process that has the pid of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProcessFacts {
    /// When it started, in clock ticks since the boot.
    pub start_ticks: u64,
    /// When it started, in seconds since 1970; `None` if the boot time is unknown.
    pub started_at_seconds: Option<i64>,
    /// Whether it has ended and was not reaped.
    pub is_zombie: bool,
    /// Whether its arguments are those of an app-server.
    pub looks_like_a_server: bool,
}

/// What became of the process of a record. `boot_id` and `pid_namespace` are those of the caller; `process` is the process that has the
/// pid now. The process of an accepted record is the recorded one.
///
/// # Errors
/// How the recorded process is gone.
pub fn verdict(
    record: &PidRecord,
    boot_id: &str,
    pid_namespace: Option<u64>,
    process: Option<ProcessFacts>,
) -> Result<(), Gone> {
    let identity = record.process_identity.as_ref();
    if identity.is_some_and(|identity| identity.boot_id != boot_id) {
        return Err(Gone::Reboot);
    }
    if record.pid_namespace.is_some_and(|written| pid_namespace != Some(written)) {
        return Err(Gone::OtherNamespace);
    }
    let process = process.ok_or(Gone::Stale)?;
    let is_same = match (identity, &record.process_start_time) {
        (Some(identity), _) => identity.start_ticks == process.start_ticks,
        (None, Some(text)) => process.started_at_seconds.is_some_and(|start| lstart::fits(text, start)),
        (None, None) => false,
    };
    match process {
        _ if !is_same => Err(Gone::Reused),
        ProcessFacts { is_zombie: true, .. } => Err(Gone::Zombie),
        // A start time in whole seconds may be that of another process.
        ProcessFacts { looks_like_a_server: false, .. } if identity.is_none() => Err(Gone::Foreign),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Gone, ProcessFacts, RecordDefect, parse, verdict};
    use crate::lstart;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_both_upstream_eras_are_read() {
        let seed = parse(br#"{"pid":41,"processStartTime":"Fri Nov 20 03:21:40 2026"}"#).expect("0.131.0");
        assert_eq!((seed.pid.0, seed.process()), (41, None));
        let later = parse(
            br#"{"pid":42,"processStartTime":"Fri Nov 20 04:56:10 2026","processIdentity":{"bootId":"b","startTicks":7},
                "executableIdentity":{"digest":[1],"path_digest":[2]}}"#,
        )
        .expect("0.169.0");
        assert_eq!(later.process().map(|process| process.identity.start_ticks), Some(7));
    }

    #[test]
    fn what_names_nobody_is_told_apart() {
        assert_eq!(parse(b" \n"), Err(RecordDefect::Empty));
        assert_eq!(parse(br#"{"pid":0,"processStartTime":"x"}"#), Err(RecordDefect::ImpossiblePid(0)));
        assert_eq!(
            parse(br#"{"pid":4000000000,"processStartTime":"x"}"#),
            Err(RecordDefect::ImpossiblePid(4_000_000_000))
        );
        assert_eq!(parse(br#"{"pid":7}"#), Err(RecordDefect::Unidentified(7)));
        assert!(matches!(parse(b"garbage"), Err(RecordDefect::Garbage(_))));
        assert!(matches!(parse(br#"{"pid":12,"proc"#), Err(RecordDefect::Garbage(_))));
    }

    #[test]
    fn a_recorded_process_is_accepted_only_if_nothing_contradicts_the_record() {
        let by_identity =
            parse(br#"{"pid":7,"processIdentity":{"bootId":"b","startTicks":9},"pidNamespace":3}"#)
                .expect("a record");
        let facts = ProcessFacts {
            start_ticks: 9,
            started_at_seconds: Some(1_795_000_000),
            is_zombie: false,
            looks_like_a_server: false,
        };
        let of = |boot, namespace, facts| verdict(&by_identity, boot, namespace, facts);
        assert_eq!(of("b", Some(3), Some(facts)), Ok(()), "the identity suffices");
        assert_eq!(of("c", Some(4), None), Err(Gone::Reboot));
        assert_eq!(of("b", Some(4), Some(facts)), Err(Gone::OtherNamespace));
        assert_eq!(of("b", None, Some(facts)), Err(Gone::OtherNamespace));
        assert_eq!(of("b", Some(3), None), Err(Gone::Stale));
        assert_eq!(of("b", Some(3), Some(ProcessFacts { start_ticks: 8, ..facts })), Err(Gone::Reused));
        assert_eq!(of("b", Some(3), Some(ProcessFacts { is_zombie: true, ..facts })), Err(Gone::Zombie));

        let text = lstart::format(1_795_000_000, &jiff::tz::TimeZone::UTC).expect("a time");
        let by_text =
            parse(format!(r#"{{"pid":7,"processStartTime":"{text}"}}"#).as_bytes()).expect("a record");
        let of = |facts| verdict(&by_text, "b", Some(3), Some(facts));
        assert_eq!(of(ProcessFacts { looks_like_a_server: true, ..facts }), Ok(()));
        assert_eq!(of(facts), Err(Gone::Foreign), "the second of a start is not enough");
        assert_eq!(of(ProcessFacts { started_at_seconds: None, ..facts }), Err(Gone::Reused));
        assert_eq!(of(ProcessFacts { started_at_seconds: Some(1_795_000_100), ..facts }), Err(Gone::Reused));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
