//! What another user puts into a home where that user may write, before codexd comes.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Fake, Home, Layout, skip};

use super::{COMMANDS, NEEDS_ROOT, OTHER, give_away, is_root, recording_codex, refused, set_mode};

/// A home where every user may write.
fn open_home() -> anyhow::Result<Home> {
    let home = Home::new()?;
    for folder in [home.root(), home.path()] {
        set_mode(folder, 0o777)?;
    }
    Ok(home)
}

/// Every command refuses, and names what is at `path`.
fn every_command_refuses(home: &Home, path: &Path) -> anyhow::Result<()> {
    for command in COMMANDS {
        let error = refused(&Codexd::new(home)?.run(command)?).with_context(|| format!("{command:?}"))?;
        ensure!(error.is_null() || error["path"] == path.to_str().context("text")?, "{error}");
    }
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_state_folder_that_another_user_made_first_is_refused() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    let home = open_home()?;
    let (codex, ran) = recording_codex(&home.work())?;
    let victim = home.root().join("victim");
    fs::write(&victim, "precious")?;
    fs::create_dir(home.state(""))?;
    fs::write(home.state("settings.json"), serde_json::json!({ "codexBin": codex }).to_string())?;
    symlink(&victim, home.state("events.jsonl"))?;
    give_away(&home.state(""))?;
    every_command_refuses(&home, home.state("").as_path().components().as_path())?;
    ensure!(!ran.exists(), "the program that another user named was executed");
    ensure!(fs::read_to_string(&victim)? == "precious", "the link of another user was followed");
    ensure!(fs::read_dir(home.state(""))?.count() == 2, "something was written");
    Ok(())
}

#[test]
fn a_control_folder_that_another_user_made_first_is_refused() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    let home = open_home()?;
    let folder = home.path().join("app-server-control");
    fs::create_dir(&folder)?;
    give_away(&folder)?;
    every_command_refuses(&home, &folder)
}

#[test]
fn a_link_in_the_place_of_the_state_folder_is_followed_only_if_this_user_made_it() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    let home = open_home()?;
    let state = home.path().join("app-server-daemon");
    let codexd = Codexd::new(&home)?;
    let (mine, theirs) = (home.root().join("mine"), home.root().join("theirs"));
    fs::create_dir(&mine)?;
    fs::create_dir(&theirs)?;
    give_away(&theirs)?;
    // A link of another user, wherever it leads; and a link of this user to a folder of another.
    for (target, link_owner) in [
        (&mine, Some(OTHER)),
        (&theirs, Some(OTHER)),
        (&home.root().join("none"), Some(OTHER)),
        (&theirs, None),
    ] {
        symlink(target, &state)?;
        lchown(&state, link_owner, None)?;
        every_command_refuses(&home, &state)?;
        fs::remove_file(&state)?;
    }
    ensure!(fs::read_dir(&mine)?.count() == 0, "something was written");
    // A link of this user that leads nowhere.
    symlink(home.root().join("none"), &state)?;
    let error = codexd.run(&["start", "--embedded"])?.json()?["error"].clone();
    ensure!(error["code"] == "state-unwritable", "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(message.contains("none, which does not exist"), "{error}");
    fs::remove_file(&state)?;
    // A link of this user to a folder of this user.
    symlink(&mine, &state)?;
    codexd.json(&["start", "--embedded"])?;
    codexd.json(&["stop"])?;
    ensure!(mine.join("events.jsonl").exists(), "the folder is used");
    Ok(())
}

#[test]
fn a_state_folder_that_others_may_write_to_is_closed_and_what_they_planted_is_not_used() -> anyhow::Result<()>
{
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    for name in ["settings.json", "daemon.lock", "supervisor.lock", "server.stderr.log", "supervisor.log"] {
        for is_link in [true, false] {
            let home = open_home()?;
            let victim = home.root().join("victim");
            fs::write(&victim, "{}")?;
            fs::create_dir(home.state(""))?;
            set_mode(&home.state(""), 0o777)?;
            let planted = home.state(name);
            if is_link {
                symlink(&victim, &planted)?;
            } else {
                fs::write(&planted, "{}")?;
            }
            lchown(&planted, Some(OTHER), Some(OTHER))?;
            let codexd = Codexd::new(&home)?;
            if name == "settings.json" {
                let status = codexd.json(&["status"])?;
                ensure!(status["problems"][0]["found"] == "foreign-owner", "{status}");
                ensure!(status["problems"][1]["found"] == "writable-by-others", "{status}");
                ensure!(status["problems"].as_array().is_some_and(|all| all.len() == 2), "{status}");
            }
            let run = codexd.run(&["start", "--embedded"])?;
            let error = run.json()?["error"].clone();
            ensure!(!run.success() && error["message"].to_string().contains("uid 65534"), "{name}: {run}");
            ensure!(fs::metadata(home.state(""))?.mode() & 0o777 == 0o700, "{name}");
            ensure!(fs::read_to_string(&victim)? == "{}", "{name} was written through");
            home.assert_no_process_left();
            fs::remove_file(&planted)?;
            codexd.json(&["start", "--embedded"])?;
            codexd.json(&["stop"])?;
        }
    }
    Ok(())
}

#[test]
fn a_listener_of_another_user_on_the_control_socket_gets_no_data() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    let home = open_home()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let socket = home.control_socket();
    let folder = socket.parent().context("a folder")?;
    fs::create_dir(folder)?;
    set_mode(folder, 0o777)?;
    let listening = std::thread::spawn(move || {
        let other = rustix::process::Uid::from_raw(OTHER);
        // Of this thread alone: that is what the system call does.
        rustix::thread::set_thread_res_uid(other, other, other)?;
        UnixListener::bind(socket)
    });
    let listener = listening.join().expect("no panic")?;
    let codexd = Codexd::new(&home)?;
    for command in
        [&["version"][..], &["start"], &["up"], &["restart"], &["stop"], &["proxy"], &["proxy", "--lines"]]
    {
        refused(&codexd.run(command)?).with_context(|| format!("{command:?}"))?;
    }
    let status = codexd.json(&["status"])?;
    ensure!(
        status["status"] == "notRunning" && status["problems"][0]["found"] == "foreign-owner",
        "{status}"
    );
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false)?;
                let mut told = Vec::new();
                stream.read_to_end(&mut told)?;
                ensure!(told.is_empty(), "it was told {:?}", String::from_utf8_lossy(&told));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_codex_that_another_user_planted_in_the_home_is_not_executed() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    let home = open_home()?;
    let (codex, ran) = recording_codex(&home.work())?;
    let place = home.install(Layout::Standalone, &codex)?;
    let codexd = Codexd::new(&home)?;
    // The link, a folder above it, and the file itself.
    for planted in [place.as_path(), &home.path().join("packages"), &codex] {
        lchown(planted, Some(OTHER), Some(OTHER))?;
        let error = codexd.run(&["start"])?.json()?["error"].clone();
        ensure!(error["code"] == "codex-broken", "{error}");
        ensure!(error["message"].to_string().contains("uid 65534"), "{error}");
        let status = codexd.json(&["status"])?;
        ensure!(status["problems"][0]["found"] == "codex-broken", "{status}");
        lchown(planted, Some(0), Some(0))?;
    }
    // A folder where every user may put another file.
    let folder = home.path().join("packages/standalone");
    set_mode(&folder, 0o777)?;
    ensure!(codexd.run(&["start"])?.json()?["error"]["code"] == "codex-broken", "open to all");
    ensure!(!ran.exists(), "it was executed");
    set_mode(&folder, 0o755)?;
    chown(&codex, Some(0), Some(0))?;
    ensure!(codexd.json(&["status"])?["managedCodexVersion"] == "9.9.9", "it is used");
    Ok(())
}
