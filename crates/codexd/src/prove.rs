//! Checks of a new app-server before it takes over: its configuration loads, and it can read a thread that the old server has
//! loaded. `initialize` proves neither: 0.131.0, 0.169.0 and 0.171.0 answer it with an invalid config.toml and refuse every
//! thread afterwards.
//!
//! Only a refusal counts. A server that does not know a request, or does not answer it in time, passes.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::limits::{PROBE_TIMEOUT_MS, PROOF_THREADS_MAX, PROOF_TIMEOUT_MS, STDERR_TAIL_BYTES};
use codexd_core::{foreign_text, identity};
use codexd_protocol::session::Session;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::{Value, json};

use crate::context::VERSION;

fn timeout() -> Duration {
    Duration::from_millis(PROOF_TIMEOUT_MS)
}

/// Asks the new server on the socket `successor` whether it can replace the old one on the socket `before`.
///
/// # Errors
/// What is wrong; nothing has changed.
pub fn successor(successor: &Path, before: Option<&Path>, old: Option<identity::Pid>) -> Result<(), Failure> {
    let Ok(mut session) = Session::open(successor, VERSION, timeout()) else { return Ok(()) };
    if let Some(why) = configuration_refused(&mut session) {
        return Err(config_invalid(&why, old));
    }
    let threads = before.map(threads_of).unwrap_or_default();
    let mut last = None;
    for thread in threads {
        match session.call("thread/read", &json!({"threadId": thread})) {
            Ok(Err(error)) if !is_unknown(&error) => last = Some((thread, message(&error))),
            // One thread that the new server reads is enough. A server that does not answer passes.
            _ => return Ok(()),
        }
    }
    match last {
        Some((thread, why)) => Err(threads_unreadable(&thread, &why, old)),
        None => Ok(()),
    }
}

/// Runs the Codex of `program` once to check that its configuration loads. For a server that has to be stopped before the new
/// one can start.
///
/// # Errors
/// What is wrong; nothing has changed.
pub fn program(program: &LaunchSpec, old: Option<identity::Pid>) -> Result<(), Failure> {
    match (!program.embedded).then(|| configuration_error(program)).flatten() {
        Some(why) => Err(config_invalid(&why, old)),
        None => Ok(()),
    }
}

/// Why the app-server cannot load its configuration; `None` if it can.
pub fn configuration_refused(session: &mut Session) -> Option<String> {
    let refused = |session: &mut Session, method: &str| match session.call(method, &json!({})) {
        Ok(Err(error)) if !is_unknown(&error) => Some(message(&error)),
        _ => None,
    };
    let read = refused(session, "config/read")?;
    // This answer names the file and the line.
    let located = refused(session, "modelProvider/capabilities/read").filter(|why| why.contains('/'));
    Some(located.unwrap_or(read))
}

/// Up to `PROOF_THREADS_MAX` threads that a server has loaded and that are on disk.
fn threads_of(server: &Path) -> Vec<String> {
    let Ok(mut session) = Session::open(server, VERSION, timeout()) else { return Vec::new() };
    let Ok(Ok(loaded)) = session.call("thread/loaded/list", &json!({})) else { return Vec::new() };
    let loaded = loaded["data"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut threads = Vec::new();
    for thread in loaded.take(4 * PROOF_THREADS_MAX) {
        let Ok(Ok(read)) = session.call("thread/read", &json!({"threadId": thread})) else { continue };
        if read["thread"]["path"].as_str().is_some_and(|path| Path::new(path).is_file()) {
            threads.push(thread.to_owned());
        }
        if threads.len() == PROOF_THREADS_MAX {
            break;
        }
    }
    threads
}

/// Whether an error says nothing about the thread or the configuration: the method is unknown, or the server is overloaded or
/// is shutting down.
fn is_unknown(error: &Value) -> bool {
    let message = error["message"].as_str().unwrap_or_default();
    matches!(error["code"].as_i64(), Some(-32601 | -32001))
        // An invalid configuration may have an "unknown variant", too.
        || message.starts_with("Invalid request: unknown variant")
        || message.contains("not supported")
        || error["data"]["reason"] == "serverShuttingDown"
}

/// The message of an error, without the prefixes that name the steps before it.
fn message(error: &Value) -> String {
    const STEPS: [&str; 3] = [
        "failed to resolve feature override precedence: ",
        "failed to read configuration layers: ",
        "invalid configuration: ",
    ];
    let mut message = error["message"].as_str().unwrap_or("no reason was given").trim();
    while let Some(rest) = STEPS.iter().find_map(|step| message.strip_prefix(step)) {
        message = rest;
    }
    in_one_line(message.lines())
}

fn in_one_line<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    foreign_text::quote(&lines.join(" "))
}

/// `codex features list` loads the whole configuration and starts nothing (0.131.0, 0.169.0, 0.171.0). If it cannot, it exits
/// with 1 and prints why.
fn configuration_error(program: &LaunchSpec) -> Option<String> {
    let mut child = Command::new(&program.executable)
        .args(["features", "list"])
        .env_clear()
        .envs(program.env.iter().map(|(name, value)| (&name.0, &value.0)))
        .current_dir(&program.cwd)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let (mut stderr, (send, receive)) = (child.stderr.take()?, std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let mut printed = Vec::new();
        let _ = stderr.by_ref().take(STDERR_TAIL_BYTES * 4).read_to_end(&mut printed);
        let _ = send.send(printed);
    });
    if !ends_within(&child, timeout()) {
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
        return None;
    }
    let status = child.wait().ok()?;
    // A process that it started may hold the pipe open.
    let printed = receive.recv_timeout(Duration::from_millis(PROBE_TIMEOUT_MS)).ok()?;
    (status.code() == Some(1)).then(|| error_of(&String::from_utf8_lossy(&printed))).flatten()
}

fn ends_within(child: &std::process::Child, time: Duration) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(pidfd)) = pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) else {
        return false;
    };
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut waits = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut waits, left.try_into().ok().as_ref()) {
            Ok(ended) => return ended > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The text behind `Error:`, or its cause, which is more precise.
fn error_of(printed: &str) -> Option<String> {
    // With RUST_BACKTRACE a backtrace follows.
    let printed = printed.split("Stack backtrace:").next().unwrap_or_default();
    let at = printed.find("Error: ")?;
    let (first, causes) = match printed[at + 7..].split_once("Caused by:") {
        Some((first, causes)) => (first, causes),
        None => (&printed[at + 7..], ""),
    };
    let numbered = |line: &'_ str| line.trim().trim_start_matches("0: ").to_owned();
    let cause = causes.lines().map(numbered).find(|line| !line.is_empty());
    let names_file = first.trim_start().starts_with('/');
    Some(match cause.filter(|_| !names_file) {
        Some(cause) if cause.starts_with('/') => in_one_line(cause.lines()),
        Some(_) => in_one_line(causes.lines()),
        None => in_one_line(first.lines()),
    })
}

fn unaffected(old: Option<identity::Pid>) -> String {
    old.map(|pid| format!("; the running app-server (pid {pid}) is unaffected and keeps its threads"))
        .unwrap_or_default()
}

/// The failure of a new app-server that cannot load its configuration, beside the old one.
pub fn config_invalid(why: &str, old: Option<identity::Pid>) -> Failure {
    Failure::new(
        ErrorCode::ConfigInvalid,
        format!("the new app-server cannot load its configuration: {why}{}", unaffected(old)),
    )
    .hint("correct the configuration, then run the command again")
    .with("cause", why)
    .with("runningPid", old.map(|pid| pid.0))
}

fn threads_unreadable(thread: &str, why: &str, old: Option<identity::Pid>) -> Failure {
    Failure::new(
        ErrorCode::SuccessorUnfit,
        format!(
            "the new app-server cannot read thread {thread}, which is loaded now: {why}{}",
            unaffected(old)
        ),
    )
    .hint("`codexd logs` shows what the new app-server wrote; remove the cause, then run the command again")
    .with("cause", why)
    .with("threadId", thread)
    .with("runningPid", old.map(|pid| pid.0))
}

#[cfg(test)]
mod tests {
    use super::{error_of, message};
    use serde_json::json;

    #[test]
    fn the_cause_is_reported_without_the_prefixes_of_its_steps() {
        let error = json!({"message": "failed to resolve feature override precedence: /h/config.toml:7:1: invalid transport"});
        assert_eq!(message(&error), "/h/config.toml:7:1: invalid transport");
        let error = json!({"message": "invalid configuration: invalid transport\nin `mcp_servers.a`\n"});
        assert_eq!(message(&error), "invalid transport in `mcp_servers.a`");
    }

    #[test]
    fn what_codex_prints_of_an_invalid_configuration_is_found_among_its_warnings() {
        let printed = "WARNING: x\nError: failed to load bootstrap configuration\n\nCaused by:\n    0: /h/config.toml:16:8: unclosed array, expected `]`\n    1: TOML parse error at line 16, column 8\n          |\n";
        assert_eq!(error_of(printed).as_deref(), Some("/h/config.toml:16:8: unclosed array, expected `]`"));
        let printed = "Error: failed to load bootstrap configuration\n\nCaused by:\n    invalid transport\n    in `mcp_servers.a`\n";
        assert_eq!(error_of(printed).as_deref(), Some("invalid transport in `mcp_servers.a`"));
        let printed = "Error: /h/config.toml:7:1: invalid transport\n\nCaused by:\n    invalid transport\n    in `mcp_servers.a`\n";
        assert_eq!(error_of(printed).as_deref(), Some("/h/config.toml:7:1: invalid transport"));
        let printed = "Error: failed to load bootstrap configuration\n\nCaused by:\n    invalid transport\n\nStack backtrace:\n   0: <unknown>\n";
        assert_eq!(error_of(printed).as_deref(), Some("invalid transport"));
        assert_eq!(
            error_of("Error: config profile `x` not found\n").as_deref(),
            Some("config profile `x` not found")
        );
        assert_eq!(error_of("WARNING: proceeding\n"), None);
    }
}
