//! The record of the current app-server on disk, `server.json`: written by the supervisor, read by each command.
//!
//! The record of upstream's daemon, which an older codexd wrote as well, is read if codexd's own names no running process. It is removed
//! when codexd records the same app-server: see [`upstream_files`].

use std::io;
use std::path::Path;
use std::time::Duration;

use codexd_core::identity::Process;
use codexd_core::lifecycle::{Gone, Recorded};
use codexd_core::limits::PROBE_TIMEOUT_MS;
use codexd_core::record::{self, CodexdRecord, PidRecord, ProcessFacts, RecordDefect};
use codexd_core::{identity::Pid, lstart};
use jiff::tz::TimeZone;

use crate::atomic::{self, Durability};
use crate::home::Home;
use crate::{pid_namespace, process, upstream_files};

/// The records of the updater of upstream's daemon: of the older installation layout and of the newer one.
const UPSTREAM_UPDATER_RECORDS: [&str; 2] = ["app-server-updater.pid", "daemon-updater.pid"];

/// A pid record, and whether its process runs.
#[derive(Clone, Debug)]
pub struct Observed {
    /// For the decision.
    pub recorded: Recorded,
    /// The process, if it runs.
    pub process: Option<Process>,
    /// codexd's part of the record.
    pub codexd: Option<CodexdRecord>,
}

impl Observed {
    fn dead(recorded: Recorded) -> Self {
        Self { recorded, process: None, codexd: None }
    }
}

/// Reads the record and finds its process. Of codexd's own record and upstream's, the record of a running process takes precedence, then
/// codexd's.
///
/// # Errors
/// A record cannot be read. A missing record is no error.
pub fn observe(home: &Home) -> io::Result<Observed> {
    let own = observe_file(&home.pid_record())?;
    if own.process.is_some() {
        return Ok(own);
    }
    let path = home.upstream_pid_record();
    let upstream = observe_file(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let counts = upstream.process.is_some() || own.recorded == Recorded::Absent;
    Ok(if counts { upstream } else { own })
}

/// Reads one record in upstream's form and finds its process.
///
/// # Errors
/// The record cannot be read. A missing record is no error.
pub fn observe_file(path: &Path) -> io::Result<Observed> {
    let Some(bytes) = atomic::read(path)? else {
        return Ok(Observed::dead(Recorded::Absent));
    };
    Ok(match record::parse(&bytes) {
        Ok(record) => match judge(&record) {
            Ok(process) => Observed {
                recorded: Recorded::Alive(process.pid),
                process: Some(process),
                codexd: record.codexd,
            },
            Err(gone) => Observed::dead(Recorded::Gone(gone)),
        },
        Err(RecordDefect::Unidentified(pid)) => unidentified(pid),
        Err(defect) => Observed::dead(Recorded::Unusable(defect)),
    })
}

/// The updater of upstream's daemon, if its record names a running process.
pub fn upstream_updater(home: &Home) -> Option<Process> {
    let records = UPSTREAM_UPDATER_RECORDS.map(|name| home.state_file(name));
    records.iter().find_map(|path| observe_file(path).ok()?.process)
}

/// A pid alone identifies no process.
fn unidentified(pid: u32) -> Observed {
    Observed::dead(match process::stat(Pid(pid)) {
        None => Recorded::Gone(Gone::Stale),
        Some(_) => Recorded::Unusable(RecordDefect::Unidentified(pid)),
    })
}

fn judge(record: &PidRecord) -> Result<Process, Gone> {
    let facts = process::stat(record.pid).map(|stat| ProcessFacts {
        start_ticks: stat.start_ticks,
        started_at_seconds: process::started_at_seconds(stat.start_ticks),
        is_zombie: stat.is_zombie(),
        looks_like_a_server: looks_like_a_server(record.pid),
    });
    match record::verdict(record, process::boot_id().unwrap_or_default(), pid_namespace::own(), facts) {
        Ok(()) => process::identify(record.pid).map_err(|_| Gone::Stale),
        Err(gone) => {
            if gone == Gone::Zombie {
                process::await_exit_of(record.pid, Duration::from_millis(PROBE_TIMEOUT_MS));
            }
            Err(gone)
        }
    }
}

/// Whether a process is an app-server, by its arguments. Needed only for records that identify it by a start time in whole seconds.
pub fn looks_like_a_server(pid: Pid) -> bool {
    process::arguments(pid).iter().any(|argument| argument.to_string_lossy().contains("app-server"))
}

/// Writes the record of a running app-server. Upstream's commands do not find that app-server any more.
///
/// # Errors
/// The record cannot be written, or upstream's record cannot be removed.
pub fn write(home: &Home, process: &Process, codexd: CodexdRecord) -> io::Result<()> {
    let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
    let start_time = process::started_at_seconds(process.identity.start_ticks)
        .and_then(|seconds| lstart::format(seconds, &zone));
    let record = PidRecord {
        pid: process.pid,
        process_start_time: start_time,
        process_identity: Some(process.identity.clone()),
        pid_namespace: pid_namespace::own(),
        codexd: Some(codexd),
    };
    let text = serde_json::to_vec(&record)?;
    atomic::replace(&home.pid_record(), &text, Durability::Process)?;
    upstream_files::remove_records_of(home, process)
}

/// Removes codexd's record. A missing record is no error.
///
/// # Errors
/// The record cannot be removed.
pub fn remove(home: &Home) -> io::Result<()> {
    atomic::remove_if_exists(&home.pid_record())
}

/// Removes the records that name no running process, including upstream's. The caller holds the operation lock, so upstream's daemon does not
/// write a record meanwhile.
///
/// # Errors
/// A record cannot be read or removed.
pub fn remove_unusable(home: &Home) -> io::Result<()> {
    for path in [home.pid_record(), home.upstream_pid_record()] {
        if observe_file(&path)?.process.is_none() {
            atomic::remove_if_exists(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{observe, write};
    use crate::home::Home;
    use crate::process;
    use codexd_core::identity::Pid;
    use codexd_core::lifecycle::{Gone, Recorded};
    use codexd_core::record::CodexdRecord;
    use jiff::tz::{Offset, TimeZone};
    use std::io::Read;
    use std::process::{Command, Stdio};

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        (folder, home)
    }

    fn record(home: &Home, text: &str) -> Recorded {
        std::fs::write(home.pid_record(), text).expect("written");
        observe(home).expect("observed").recorded
    }

    #[test]
    fn a_written_record_is_read() {
        let (_folder, home) = home();
        let me = process::myself().expect("me");
        let codexd = CodexdRecord {
            generation: Some("g".into()),
            executable: "/x".into(),
            executable_identity: None,
            embedded: false,
            socket: None,
            named: None,
        };
        write(&home, &me, codexd).expect("written");
        assert_eq!(observe(&home).expect("observed").recorded, Recorded::Alive(me.pid));
    }

    #[test]
    fn the_record_of_a_running_process_takes_precedence() {
        let (_folder, home) = home();
        let me = process::myself().expect("me");
        let text = |ticks: u64| {
            let (pid, boot) = (me.pid, &me.identity.boot_id);
            format!(r#"{{"pid":{pid},"processIdentity":{{"bootId":"{boot}","startTicks":{ticks}}}}}"#)
        };
        std::fs::write(home.upstream_pid_record(), text(me.identity.start_ticks)).expect("written");
        assert_eq!(observe(&home).expect("observed").recorded, Recorded::Alive(me.pid), "no own record");
        assert_eq!(record(&home, &text(me.identity.start_ticks + 1)), Recorded::Alive(me.pid));
        std::fs::write(home.upstream_pid_record(), "").expect("written");
        assert_eq!(observe(&home).expect("observed").recorded, Recorded::Gone(Gone::Reused));
        super::remove_unusable(&home).expect("removed");
        assert_eq!(observe(&home).expect("observed").recorded, Recorded::Absent);
    }

    #[test]
    fn every_reason_why_a_process_is_gone_is_distinguished() {
        let (_folder, home) = home();
        let me = process::myself().expect("me");
        let (pid, boot, ticks) = (me.pid, &me.identity.boot_id, me.identity.start_ticks);
        let form = |pid: Pid, boot: &str, ticks: u64| {
            format!(r#"{{"pid":{pid},"processIdentity":{{"bootId":"{boot}","startTicks":{ticks}}}}}"#)
        };
        assert_eq!(record(&home, &form(pid, "before", ticks)), Recorded::Gone(Gone::Reboot));
        assert_eq!(record(&home, &form(pid, boot, ticks + 1)), Recorded::Gone(Gone::Reused));
        assert_eq!(record(&home, &form(Pid(4_194_305), boot, 1)), Recorded::Gone(Gone::Stale));
        assert_eq!(
            record(&home, &format!(r#"{{"pid":{pid},"processStartTime":"Fri Nov 20 03:21:40 2009"}}"#)),
            Recorded::Gone(Gone::Reused)
        );
        assert!(matches!(record(&home, ""), Recorded::Unusable(_)));
    }

    #[test]
    fn an_old_record_is_recognized_in_every_time_zone() {
        let (_folder, home) = home();
        let mut child = Command::new("sh")
            .args(["-c", "echo up; read line", "app-server"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        // Before its first output, its arguments may be those before exec.
        let mut said = [0u8; 3];
        child.stdout.take().expect("piped").read_exact(&mut said).expect("it is up");
        let process = process::identify(Pid(child.id())).expect("identified");
        let start = process::started_at_seconds(process.identity.start_ticks).expect("known");
        for quarter in [-48, -14, 0, 23, 56] {
            let zone = TimeZone::fixed(Offset::from_seconds(quarter * 900).expect("a zone"));
            let text = codexd_core::lstart::format(start, &zone).expect("a date");
            let text = format!(r#"{{"pid":{},"processStartTime":"{text}"}}"#, process.pid);
            assert_eq!(record(&home, &text), Recorded::Alive(process.pid), "{text}");
        }
        process::signal(&process, rustix::process::Signal::KILL).expect("killed");
        child.wait().expect("reaped");
    }
}
