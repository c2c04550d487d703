//! Files that are not what they should be, and files that grow.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::Context;
use codexd_testkit::{Codexd, Home, run, until};
use rustix::fs::{CWD, Mode};

use super::home;
use crate::lifecycle::SOON;

#[test]
fn an_object_in_place_of_a_file_is_reported_and_delays_no_command() -> anyhow::Result<()> {
    for fifo in [true, false] {
        let home = home()?;
        let codexd = Codexd::new(&home)?;
        let settings = home.state("settings.json");
        match fifo {
            true => rustix::fs::mkfifoat(CWD, &settings, Mode::RWXU)?,
            false => fs::create_dir(&settings)?,
        }
        let status = codexd.json(&["status"])?;
        let problem = &status["problems"][0];
        assert_eq!(problem["found"], "corrupt-settings", "{status}");
        let names_it = |text: &serde_json::Value| {
            text.as_str().is_some_and(|text| text.contains("settings.json is not a regular file"))
        };
        assert!(names_it(&problem["message"]), "{problem}");
        let error = codexd.run(&["start"])?.json()?["error"].clone();
        assert!(names_it(&error["message"]), "{error}");
        assert_eq!(error["path"].as_str(), settings.to_str());
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn fifos_in_place_of_files_that_are_only_read_delay_no_command() -> anyhow::Result<()> {
    let home = home()?;
    for name in [
        "server.json",
        "app-server.pid",
        "codex-binaries.json",
        "supervisor.json",
        "events.jsonl.1",
        "server.stderr.log.1",
    ] {
        rustix::fs::mkfifoat(CWD, home.state(name), Mode::RWXU)?;
    }
    let codexd = Codexd::new(&home)?;
    assert_eq!(codexd.json(&["status"])?["problems"][0]["found"], "unreadable-record");
    assert_eq!(codexd.json(&["logs"])?["lines"], serde_json::json!([]));
    Ok(())
}

#[test]
fn a_fifo_in_the_place_of_any_file_that_a_start_opens_does_not_hang_it() -> anyhow::Result<()> {
    // Whether `start` fails because of it: then it names the path.
    let places = [
        ("daemon.lock", true),
        ("supervisor.lock", true),
        ("supervisor.log", true),
        ("server.stdout.log", true),
        ("server.stderr.log", true),
        ("gateway.log", true),
        ("settings.json", true),
        ("events.jsonl", false),
        ("server.json", true),
        ("supervisor.json", false),
        ("gateway.json", false),
        ("gateway-goals.json", false),
        ("gateway-client-identity.json", false),
        ("codex-binaries.json", false),
    ];
    for (name, fails) in places {
        let home = Home::new()?;
        fs::create_dir_all(home.state(""))?;
        rustix::fs::mkfifoat(CWD, home.state(name), Mode::RWXU)?;
        let codexd = Codexd::new(&home)?;
        let start =
            run::run(codexd.command(&["start", "--embedded"]), SOON).with_context(|| name.to_owned())?;
        assert_eq!(start.success(), !fails, "{name}: {start}");
        if fails {
            let error = start.json()?["error"].clone();
            let message = error["message"].as_str().unwrap_or_default();
            assert!(message.contains(&format!("{name} is not a regular file")), "{name}: {error}");
        }
        run::run(codexd.command(&["status"]), SOON).with_context(|| name.to_owned())?.success_json()?;
        if !fails {
            run::run(codexd.command(&["stop"]), SOON).with_context(|| name.to_owned())?.success_json()?;
        }
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn a_umask_that_takes_everything_takes_nothing_from_the_owner() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let start = codexd.command(&["start", "--embedded"]);
    let mut command = home.command("sh");
    command.args(["-c", "umask 0777 && exec \"$@\"", "sh"]).arg(start.get_program()).args(start.get_args());
    run::run(command, SOON)?.success_json()?;
    let mode =
        |path: std::path::PathBuf| Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
    assert_eq!((mode(home.state(""))?, mode(home.path().join("app-server-control"))?), (0o700, 0o700));
    for name in ["server.json", "supervisor.json", "events.jsonl", "server.stderr.log"] {
        assert_eq!(mode(home.state(name))?, 0o600, "{name}");
    }
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn logs_that_are_followed_show_each_line_once_though_the_front_is_cut_off() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let path = home.state("server.stderr.log");
    let mut log = OpenOptions::new().append(true).open(&path)?;
    writeln!(log, "first")?;
    let shown = home.root().join("shown");
    let mut command: Command = codexd.command(&["logs", "--follow", "--lines", "1"]);
    let mut follower = command.stdin(Stdio::null()).stdout(File::create(&shown)?).spawn()?;
    let text = || fs::read_to_string(&shown).unwrap_or_default();
    until(SOON, "the last line", || text().contains("first\n").then_some(()))?;
    // More than a log may hold: the supervisor moves it away.
    let line = "x".repeat(1 << 20);
    for number in 0..9 {
        writeln!(log, "{number} {line}")?;
    }
    until(SOON, "the rotation", || fs::metadata(&path).ok().filter(|found| found.len() < 1 << 20))?;
    writeln!(log, "last")?;
    until(SOON, "what comes after", || text().ends_with("last\n").then_some(()))?;
    follower.kill()?;
    follower.wait()?;
    let text = text();
    let starts: Vec<&str> = text.lines().map(|line| &line[..line.len().min(5)]).collect();
    let expected =
        ["first", "0 xxx", "1 xxx", "2 xxx", "3 xxx", "4 xxx", "5 xxx", "6 xxx", "7 xxx", "8 xxx", "last"];
    assert_eq!(starts, expected);
    let kept = until(SOON, "what was moved away", || fs::metadata(home.state("server.stderr.log.1")).ok())?;
    assert!(kept.len() <= 8 << 20);
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
