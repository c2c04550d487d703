//! The commands on the real Codex releases and on the embedded server: one script, four servers.

mod foreign_text;
mod named_codex;
mod output;
mod process_context;
mod settings;
mod turns;

use std::time::Duration;

use anyhow::Context;
use codexd_testkit::{
    AppServer, Codexd, Home, Layout, Process, Server, Version, block_on, codex, skip, until,
};
use rustix::process::Signal;
use serde_json::Value;

/// How long something that should happen at once may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Every server that the commands must manage.
pub const SERVERS: [Server; 4] = [
    Server::Real(Version::V0_131_0),
    Server::Real(Version::V0_169_0),
    Server::Real(Version::V0_171_0),
    Server::Embedded,
];

/// A home in which `codexd start` finds `server`, and the arguments that make it do so.
pub fn home_with(server: Server) -> anyhow::Result<(Home, Vec<&'static str>)> {
    let home = Home::new()?;
    let start = prepare(&home, server)?;
    Ok((home, start))
}

/// Makes `server` the one that `codexd start` with the answered arguments runs.
pub fn prepare(home: &Home, server: Server) -> anyhow::Result<Vec<&'static str>> {
    Ok(match server {
        Server::Real(version) => {
            home.install(Layout::Standalone, &codex::binary(version)?)?;
            vec!["start"]
        }
        Server::Embedded => vec!["start", "--embedded"],
    })
}

/// The recorded server.
pub fn recorded(home: &Home) -> anyhow::Result<Process> {
    let record: Value = serde_json::from_slice(&std::fs::read(home.state("server.json"))?)?;
    let pid = record["pid"].as_u64().context("the record names a pid")?;
    Process::of(u32::try_from(pid)?).with_context(|| format!("the recorded process {pid} lives"))
}

/// The supervisor, by what it wrote about itself.
pub fn supervisor(home: &Home) -> anyhow::Result<Process> {
    let state: Value = serde_json::from_slice(&std::fs::read(home.state("supervisor.json"))?)?;
    let pid = state["supervisor"]["pid"].as_u64().context("the supervisor names itself")?;
    Process::of(u32::try_from(pid)?).with_context(|| format!("the supervisor {pid} lives"))
}

macro_rules! on_every_server {
    ($($name:ident: $script:path;)+) => {
        $(mod $name {
            use super::*;

            #[test]
            fn on_the_real_0_131_0() -> anyhow::Result<()> {
                run(SERVERS[0])
            }

            #[test]
            fn on_the_real_0_169_0() -> anyhow::Result<()> {
                run(SERVERS[1])
            }

            #[test]
            fn on_the_real_0_171_0() -> anyhow::Result<()> {
                run(SERVERS[2])
            }

            #[test]
            fn on_the_embedded_server() -> anyhow::Result<()> {
                run(SERVERS[3])
            }

            fn run(server: Server) -> anyhow::Result<()> {
                if let (Server::Real(_), Err(reason)) = (server, codex::platform()) {
                    skip!("{reason}");
                }
                $script(server)
            }
        })+
    };
}
pub(crate) use on_every_server;

on_every_server! {
    a_server_is_started_once_and_stopped_without_a_trace: start_and_stop;
    restart_and_reload_bring_a_fresh_server: restart_and_reload;
    a_crashed_server_is_back_at_once_and_status_tells_how_it_ended: crash;
    a_killed_supervisor_costs_nothing: supervisor_killed;
    an_unmanaged_server_is_told_refused_and_adopted: unmanaged;
    status_tells_everything: status;
}

fn start_and_stop(server: Server) -> anyhow::Result<()> {
    let (home, start) = home_with(server)?;
    let codexd = Codexd::new(&home)?;
    let missing = codexd.run(&["version"])?;
    assert_eq!((missing.code(), &missing.json()?["error"]["code"]), (Some(5), &Value::from("not-answering")));

    let started = codexd.json(&start)?;
    assert_eq!((&started["status"], &started["backend"]), (&"started".into(), &"pid".into()), "{started}");
    assert_eq!(started["pid"].as_u64(), Some(u64::from(recorded(&home)?.pid)));
    assert_eq!(started["socketPath"], home.control_socket().to_string_lossy().into_owned());
    // It answers now, not soon.
    let version = codexd.json(&["version"])?;
    assert_eq!((&version["status"], &version["backend"]), (&"running".into(), &"pid".into()));
    assert_eq!(version["appServerVersion"], started["appServerVersion"]);

    let again = codexd.json(&start)?;
    assert_eq!((&again["status"], again.get("pid")), (&"alreadyRunning".into(), None), "{again}");
    let server = recorded(&home)?;
    let mut processes = home.processes();
    // 0.131.0 looks at the system in processes of its own when it starts.
    processes.retain(|process| process.group != server.pid || process.pid == server.pid);
    assert_eq!(processes.len(), 3, "a supervisor, a server and a gateway: {processes:?}");

    let stopped = codexd.json(&["stop"])?;
    assert_eq!((&stopped["status"], &stopped["backend"]), (&"stopped".into(), &"pid".into()), "{stopped}");
    home.assert_no_process_left();
    let again = codexd.json(&["stop"])?;
    assert_eq!((&again["status"], again.get("backend")), (&"notRunning".into(), None), "{again}");
    assert!(!home.state("server.json").exists(), "a stopped home has no record");
    Ok(())
}

fn restart_and_reload(server: Server) -> anyhow::Result<()> {
    let (home, start) = home_with(server)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&start)?;
    let mut before = recorded(&home)?;
    let supervisor_before = supervisor(&home)?;
    for command in ["restart", "reload"] {
        let replaced = codexd.json(&[command])?;
        assert_eq!(replaced["status"], "restarted", "{replaced}");
        let now = recorded(&home)?;
        assert_eq!(replaced["pid"].as_u64(), Some(u64::from(now.pid)));
        assert!(now.pid != before.pid && !before.is_alive(), "{command}: the old one is gone");
        before = now;
    }
    assert_eq!(supervisor(&home)?.pid, supervisor_before.pid, "the supervisor stays");
    codexd.json(&["stop"])?;
    let from_nothing = codexd.json(&[&["restart"], &start[1..]].concat());
    if server == Server::Embedded {
        // Restart knows the embedded server only while it runs: without a Codex there is nothing to start.
        assert!(from_nothing.is_err());
    } else {
        assert_eq!(from_nothing?["status"], "restarted");
        codexd.json(&["stop"])?;
    }
    home.assert_no_process_left();
    Ok(())
}

fn crash(server: Server) -> anyhow::Result<()> {
    let (home, start) = home_with(server)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&start)?;
    let before = recorded(&home)?;
    before.signal(Signal::KILL)?;
    before.wait_gone(SOON)?;
    let version = until(SOON, "the server to answer again", || codexd.json(&["version"]).ok())?;
    assert_eq!(version["backend"], "pid");
    let now = recorded(&home)?;
    assert_ne!(now.pid, before.pid);
    let status = codexd.json(&["status"])?;
    assert_eq!((&status["state"], &status["restarts"]), (&"running".into(), &1.into()), "{status}");
    let exit = &status["lastExit"];
    assert_eq!(
        (&exit["signal"], &exit["code"], &exit["requested"]),
        (&9.into(), &Value::Null, &false.into())
    );
    assert_eq!(exit["pid"].as_u64(), Some(u64::from(before.pid)));
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

fn supervisor_killed(server: Server) -> anyhow::Result<()> {
    let (home, start) = home_with(server)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&start)?;
    let (before, old_supervisor) = (recorded(&home)?, supervisor(&home)?);
    old_supervisor.signal(Signal::KILL)?;
    old_supervisor.wait_gone(SOON)?;
    let status = codexd.json(&["status"])?;
    assert_eq!(status["state"], "running", "the server goes on: {status}");
    assert_eq!(status["problems"][0]["found"], "lost-supervisor");
    let adopted = codexd.json(&start)?;
    assert_eq!(adopted["status"], "alreadyRunning");
    assert_eq!(adopted["repairs"][0]["found"], "lost-supervisor", "{adopted}");
    assert_eq!(recorded(&home)?.pid, before.pid, "the same server");
    // The new supervisor keeps it for real.
    before.signal(Signal::KILL)?;
    until(SOON, "a successor", || recorded(&home).ok().filter(|now| now.pid != before.pid))?;
    supervisor(&home)?.signal(Signal::KILL)?;
    let stopped = codexd.json(&["stop"])?;
    assert_eq!(stopped["status"], "stopped", "{stopped}");
    home.assert_no_process_left();
    Ok(())
}

fn unmanaged(server: Server) -> anyhow::Result<()> {
    let (home, start) = home_with(server)?;
    let codexd = Codexd::new(&home)?;
    std::fs::create_dir_all(home.path().join("app-server-control"))?;
    let mut bare = server.command(&home, "unix://", &[])?;
    bare.env("RUST_LOG", "error");
    let bare = block_on(AppServer::launch(bare, &home.control_socket(), &home.root().join("bare.log")))?;
    let pid = u64::from(bare.process().pid);

    let told = codexd.json(&start)?;
    assert_eq!((&told["status"], told.get("backend")), (&"alreadyRunning".into(), None), "{told}");
    for command in ["stop", "restart", "reload", "enable-remote-control"] {
        let refused = codexd.run(&[command])?;
        let error = &refused.json()?["error"];
        assert_eq!(
            (&error["code"], error["pid"].as_u64()),
            (&"unmanaged-server".into(), Some(pid)),
            "{command}"
        );
        assert_eq!(refused.code(), Some(8));
    }
    let status = codexd.json(&["status"])?;
    assert_eq!((&status["state"], status["pid"].as_u64()), (&"unmanaged".into(), Some(pid)));

    let adopted = codexd.json(&[&start[..], &["--adopt"]].concat())?;
    assert_eq!(
        (&adopted["status"], &adopted["backend"]),
        (&"alreadyRunning".into(), &"pid".into()),
        "{adopted}"
    );
    assert_eq!(u64::from(recorded(&home)?.pid), pid, "it was not stopped");
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    drop(bare);
    home.assert_no_process_left();
    Ok(())
}

fn status(server: Server) -> anyhow::Result<()> {
    let (home, start) = home_with(server)?;
    let codexd = Codexd::new(&home)?;
    let stopped = codexd.json(&["status"])?;
    assert_eq!((&stopped["status"], &stopped["state"]), (&"notRunning".into(), &"stopped".into()));
    assert!(!home.state("").exists(), "a look changes nothing");
    codexd.json(&start)?;
    let status = codexd.json(&["status"])?;
    assert_eq!((&status["status"], &status["state"]), (&"running".into(), &"running".into()));
    assert_eq!(status["pid"].as_u64(), Some(u64::from(recorded(&home)?.pid)));
    assert_eq!(status["supervisorPid"].as_u64(), Some(u64::from(supervisor(&home)?.pid)));
    assert_eq!(status["runningIsInstalled"], true, "{status}");
    assert_eq!(status["problems"], serde_json::json!([]));
    assert!(status["uptimeSeconds"].as_u64().is_some_and(|seconds| seconds < 600));
    for field in ["settings", "paths", "events", "lastExit", "restarts"] {
        assert!(status.get(field).is_some(), "{field} is there");
    }
    let seqs: Vec<_> =
        status["events"].as_array().context("a list")?.iter().map(|event| event["seq"].as_u64()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]) && !seqs.is_empty(), "{seqs:?}");
    codexd.json(&["stop"])?;
    Ok(())
}
