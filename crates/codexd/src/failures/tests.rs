use std::io;
use std::path::{Path, PathBuf};

use codexd_core::contract::status::LastExit;
use codexd_core::contract::{CodexSource, Failure};
use codexd_core::identity::{Pid, Process, ProcessIdentity};
use codexd_core::lifecycle::{Gone, RecordProblem, Refusal};
use codexd_core::record::RecordDefect;
use codexd_host::elsewhere::{Elsewhere, Place};
use codexd_host::lock::LockError;
use codexd_host::ownership::ForeignOwner;
use codexd_host::service::supervisor::ConnectionError;
use codexd_release::{Looked, NotFound, VersionError};

use super::{Errno, ErrorCode, Home, supervisor};

#[test]
fn a_home_that_cannot_hold_sockets_is_not_to_be_retried() {
    let home = Home::new("/h");
    let refused = |errno: Errno| {
        let message = "failed to listen for orders: refused".to_owned();
        supervisor(
            &home,
            &ConnectionError::Refused(supervisor::Refusal { message, errno: Some(errno.raw_os_error()) }),
        )
    };
    // FAT and exFAT return the first, network file systems the others.
    for errno in [Errno::PERM, Errno::OPNOTSUPP, Errno::INVAL] {
        let failure = refused(errno);
        assert_eq!(failure.code, ErrorCode::StateUnwritable);
        assert!(failure.hint.is_some_and(|hint| hint.contains("cannot hold Unix sockets")));
        assert_eq!(failure.context["path"], "/h/app-server-daemon");
        assert!(failure.message.contains("failed to listen for orders"));
    }
    assert_eq!(refused(Errno::NOSPC).code, ErrorCode::DiskFull);
    assert_eq!(refused(Errno::NOMEM).code, ErrorCode::SupervisorFailed);
}

/// A sentence and its hint, for the snapshot.
fn text(failure: &Failure) -> String {
    let hint = failure.hint.as_ref().map(|hint| format!("\n    hint: {hint}")).unwrap_or_default();
    format!("{}: {}{hint}", failure.code.as_str(), failure.message)
}

#[test]
fn sentences_of_failures() {
    let (home, path, socket) = (Home::new("/h"), Path::new("/h/x"), Path::new("/h/s.sock"));
    let mut failures = Vec::new();
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied, io::ErrorKind::IsADirectory] {
        failures.push(super::state("write", path, &kind.into()));
    }
    // No user has this id.
    let foreign = ForeignOwner { path: path.to_owned(), uid: 4_000_000 };
    failures.push(super::foreign_owner(&foreign));
    for holder in [Some("pid 7 (restart)".to_owned()), None] {
        failures.push(super::lock(path, &LockError::Timeout { waited_seconds: 75, holder }));
    }
    for error in [ConnectionError::Gone, ConnectionError::Silent(5_000)] {
        failures.push(supervisor(&home, &error));
    }
    let identity = ProcessIdentity { boot_id: "b".to_owned(), start_ticks: 1 };
    failures.push(super::supervisor_hangs(&Process { pid: Pid(7), identity }));
    let looked_at = vec![Looked { path: PathBuf::from("/usr/bin/codex"), why: "not executable".to_owned() }];
    for (named, unusable) in [
        (None, false),
        (None, true),
        (Some(CodexSource::Named), false),
        (Some(CodexSource::Setting), false),
        (Some(CodexSource::Record), false),
    ] {
        let looked_at = looked_at.clone();
        failures.push(super::no_codex(&NotFound { looked_at, named, unusable, expected: path.to_owned() }));
    }
    let waited = std::time::Duration::from_secs(5);
    for error in [
        VersionError::Hung { path: path.to_owned(), waited },
        VersionError::Slow { path: path.to_owned(), waited },
        VersionError::Odd {
            path: path.to_owned(),
            status: "exit status: 0".to_owned(),
            printed: String::new(),
        },
    ] {
        failures.push(super::broken_codex(&error));
    }
    for refusal in [
        Refusal::Unmanaged(Some(Pid(7))),
        Refusal::Occupied(Some(Pid(7))),
        Refusal::Occupied(None),
        Refusal::OtherUser(4_000_000),
        Refusal::NotASocket,
    ] {
        failures.push(super::refusal(refusal, socket));
    }
    for place in [Place::PidNamespace, Place::Host, Place::Unidentified] {
        let host_name = Some("box".to_owned());
        failures.push(super::elsewhere(&home, &Elsewhere { place, host_name, has_supervisor: true }));
    }
    let exit = LastExit {
        pid: Pid(7),
        code: Some(1),
        signal: None,
        at: String::new(),
        requested: false,
        stderr_tail: "Error: no database".to_owned(),
        error_line: None,
    };
    failures.push(super::server_exited(&exit));
    let text: Vec<String> = failures.iter().map(text).collect();
    insta::assert_snapshot!("failures", text.join("\n"));
}

#[test]
fn sentences_of_record_problems() {
    let defects = [
        RecordDefect::Empty,
        RecordDefect::Garbage("expected value".to_owned()),
        RecordDefect::ImpossiblePid(0),
        RecordDefect::Unidentified(7),
    ];
    let gone = [Gone::Stale, Gone::Reused, Gone::Zombie, Gone::Reboot, Gone::Foreign, Gone::OtherNamespace];
    let problems = defects.into_iter().map(RecordProblem::Defect).chain(gone.map(RecordProblem::Gone));
    let text: Vec<String> = problems
        .map(|problem| {
            let (found, sentence) = crate::drive::name_problem(&problem);
            format!("{found}: {sentence}")
        })
        .collect();
    insta::assert_snapshot!("record_problems", text.join("\n"));
}
