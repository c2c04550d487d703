//! The process context of the supervisor, the gateway and the app-server does not depend on the caller: each row of
//! `docs/process-context.md`.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, Process, Run, Server, Version, codex, limits, run, skip, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{home_with, recorded, supervisor};

/// What a caller may have set, as the arguments of a program that sets it and then runs the rest.
const HOSTILE: &str = "umask 0; ulimit -Sn 200; ulimit -St 3000; ulimit -Sf 1000000; ulimit -Ss 4096; \
    echo 300 > /proc/self/oom_score_adj; trap '' USR1 WINCH; export TMUX=/t SSH_TTY=/dev/pts/9 SHLVL=7; \
    exec ionice -c 3 chrt --batch 0 taskset -c 0 setarch -R nice -n 5 \
    env --block-signal=TERM --block-signal=HUP --block-signal=CHLD --ignore-signal=INT \"$@\"";

/// Runs a codexd command from such a caller, in a folder that is gone afterwards.
fn from_a_hostile_caller(home: &Home, codexd: &Codexd<'_>, arguments: &[&str]) -> anyhow::Result<Value> {
    let folder = home.root().join("scratch");
    fs::create_dir_all(&folder)?;
    let command = codexd.command(arguments);
    let mut wrapped = home.command("/bin/sh");
    wrapped.args(["-c", HOSTILE, "sh"]).arg(command.get_program()).args(command.get_args());
    let done: Run = run::run(in_folder(wrapped, &folder), limits::RUN)?;
    fs::remove_dir_all(&folder)?;
    done.success_json()
}

fn in_folder(mut command: Command, folder: &std::path::Path) -> Command {
    command.current_dir(folder);
    command
}

/// The fields of a `/proc/PID/…` file that has a name and a value a line.
fn fields(pid: u32, file: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

fn limit(pid: u32, name: &str) -> anyhow::Result<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("the limit is listed")?;
    let mut values = line.split_whitespace().map(str::to_owned);
    Ok((values.next().context("soft")?, values.next().context("hard")?))
}

/// What of the context of a process is not as documented.
fn deviations(pid: u32) -> anyhow::Result<Vec<String>> {
    let status = fields(pid, "status")?;
    let mask = |name: &str| Ok::<_, anyhow::Error>(u64::from_str_radix(&status[name], 16)?);
    let bit = |signal: Signal| 1u64 << (signal.as_raw() - 1);
    let named = [Signal::TERM, Signal::HUP, Signal::INT, Signal::CHILD, Signal::USR1, Signal::WINCH];
    let named = named.into_iter().map(bit).fold(0, |all, one| all | one);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let stat: Vec<&str> = stat.rsplit(") ").next().context("a line")?.split(' ').collect();
    let read =
        |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).map(|text| text.trim().to_owned());
    let open = limit(pid, "Max open files")?;
    let raised = |(soft, hard): (String, String)| soft == hard;
    let lowest_nice = if rustix::process::geteuid().is_root() { "0" } else { "5" };
    let own = fields(std::process::id(), "status")?;
    let io = Command::new("ionice").args(["-p", &pid.to_string()]).output()?;
    let io = String::from_utf8_lossy(&io.stdout).trim().to_owned();
    let rows = [
        ("blocked signals", mask("SigBlk")? & named == 0),
        ("ignored signals", mask("SigIgn")? & named == 0),
        ("open files", raised(open)),
        ("CPU time", raised(limit(pid, "Max cpu time")?)),
        ("file size", raised(limit(pid, "Max file size")?)),
        ("stack", limit(pid, "Max stack size")?.0 == (8 << 20).to_string()),
        ("core", limit(pid, "Max core file size")?.0 == "0"),
        ("OOM score adjustment", read("oom_score_adj")? == "0"),
        ("personality", read("personality")? == "00000000"),
        ("timer slack", read("timerslack_ns")? == "50000"),
        ("CPU affinity", status["Cpus_allowed_list"] == own["Cpus_allowed_list"]),
        ("niceness", stat[16] == lowest_nice),
        ("scheduling policy", stat[38] == "0"),
        ("I/O priority", io.starts_with("none")),
        ("controlling terminal", stat[4] == "0"),
        ("standard input", fs::read_link(format!("/proc/{pid}/fd/0"))? == std::path::Path::new("/dev/null")),
    ];
    Ok(rows.into_iter().filter(|(_, right)| !right).map(|(row, _)| format!("{row} of {pid}")).collect())
}

/// The app-server, the gateway and the supervisor.
fn assert_contexts(home: &Home, codexd: &Codexd<'_>, cwd: &std::path::Path) -> anyhow::Result<()> {
    let server = recorded(home)?.pid;
    let gateway = codexd.json(&["status"])?["gateway"]["pid"].as_u64().context("a gateway")?;
    let gateway = u32::try_from(gateway)?;
    let supervisor = supervisor(home)?.pid;
    for pid in [server, gateway, supervisor] {
        let deviations = deviations(pid)?;
        ensure!(
            deviations.is_empty(),
            "server {server}, gateway {gateway}, supervisor {supervisor}: {deviations:?}"
        );
        let private = if pid == server { "0022" } else { "0077" };
        ensure!(fields(pid, "status")?["Umask"] == private, "the umask of {pid}");
        let folder = fs::read_link(format!("/proc/{pid}/cwd"))?;
        ensure!(
            folder == if pid == server { cwd } else { std::path::Path::new("/") },
            "{pid} is in {folder:?}"
        );
    }
    let environment = fs::read(format!("/proc/{server}/environ"))?;
    let environment: Vec<_> = environment.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    for name in ["TMUX=", "SSH_TTY=", "SHLVL=", "OLDPWD="] {
        ensure!(!environment.iter().any(|variable| variable.starts_with(name)), "{name} of the caller");
    }
    ensure!(environment.iter().any(|variable| **variable == format!("PWD={}", cwd.display())), "PWD");
    Ok(())
}

fn another_server(home: &Home, before: &Process) -> anyhow::Result<()> {
    until(limits::SERVER_READY, "another server", || {
        recorded(home).ok().filter(|now| now.pid != before.pid).map(drop)
    })
}

fn the_context_is_the_same(server: Server) -> anyhow::Result<()> {
    let (home, start) = home_with(server)?;
    let codexd = Codexd::new(&home)?;
    from_a_hostile_caller(&home, &codexd, &start)?;
    assert_contexts(&home, &codexd, &home.profile()).context("after start")?;

    let crashed = recorded(&home)?;
    crashed.signal(Signal::KILL)?;
    another_server(&home, &crashed)?;
    assert_contexts(&home, &codexd, &home.profile()).context("after a crash of the app-server")?;

    let gateway = codexd.json(&["status"])?["gateway"]["pid"].clone();
    let gateway = Process::of(u32::try_from(gateway.as_u64().context("a gateway")?)?).context("it lives")?;
    gateway.signal(Signal::KILL)?;
    until(limits::SERVER_READY, "another gateway", || {
        let now = codexd.json(&["status"]).ok()?["gateway"]["pid"].as_u64()?;
        (now != u64::from(gateway.pid)).then_some(())
    })?;
    assert_contexts(&home, &codexd, &home.profile()).context("after a crash of the gateway")?;

    let replaced = recorded(&home)?;
    from_a_hostile_caller(&home, &codexd, &["restart"])?;
    ensure!(recorded(&home)?.pid != replaced.pid, "restarted");
    assert_contexts(&home, &codexd, &home.profile()).context("after restart")?;

    supervisor(&home)?.signal(Signal::KILL)?;
    from_a_hostile_caller(&home, &codexd, &start)?;
    let crashed = recorded(&home)?;
    crashed.signal(Signal::KILL)?;
    another_server(&home, &crashed)?;
    assert_contexts(&home, &codexd, &home.profile()).context("after a crash of the supervisor")?;
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn the_process_context_does_not_depend_on_the_caller_with_0_171_0() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    the_context_is_the_same(Server::Real(Version::V0_171_0))
}

#[test]
fn the_process_context_does_not_depend_on_the_caller_with_the_embedded_server() -> anyhow::Result<()> {
    the_context_is_the_same(Server::Embedded)
}

#[test]
fn the_settings_name_the_working_directory_and_the_umask_and_the_next_restart_applies_them()
-> anyhow::Result<()> {
    let (home, start) = home_with(Server::Embedded)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&start)?;
    let settings = json!({"workingDirectory": home.work(), "umask": "027"});
    home.write("app-server-daemon/settings.json", settings.to_string())?;
    codexd.json(&["restart"])?;
    let server = recorded(&home)?.pid;
    assert_eq!(fields(server, "status")?["Umask"], "0027");
    assert_eq!(fs::read_link(format!("/proc/{server}/cwd"))?, home.work());

    // A folder that is gone costs the folder, not the server.
    fs::remove_dir_all(home.work())?;
    let crashed = recorded(&home)?;
    crashed.signal(Signal::KILL)?;
    another_server(&home, &crashed)?;
    let server = recorded(&home)?.pid;
    assert_eq!(fs::read_link(format!("/proc/{server}/cwd"))?, home.path());
    fs::create_dir(home.work())?;
    codexd.json(&["stop"])?;
    Ok(())
}
