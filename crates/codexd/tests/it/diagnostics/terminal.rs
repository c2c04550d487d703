//! Text on a terminal, JSON elsewhere.

use anyhow::ensure;
use codexd_testkit::pty::run_on_terminal;
use codexd_testkit::{Codexd, Fake, Home, Layout};

use crate::lifecycle::SOON;

fn on_terminal(codexd: &Codexd<'_>, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let (status, printed) = run_on_terminal(codexd.command(arguments), SOON)?;
    Ok((status.code(), printed))
}

#[test]
fn every_command_prints_text_on_a_terminal() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    for (command, printed) in [
        ("up", "codex --remote unix://"),
        ("start", "app-server running"),
        ("status", "state "),
        ("version", "app-server running"),
        ("restart", "app-server restarted"),
        ("reload", "app-server restarted"),
        ("enable-remote-control", "remote control enabled"),
        ("disable-remote-control", "remote control disabled"),
        ("stop", "app-server stopped"),
    ] {
        let (code, text) = on_terminal(&codexd, &[command])?;
        ensure!(code == Some(0) && text.contains(printed), "{command}: {code:?} {text}");
        ensure!(!text.contains('{'), "{command} prints no JSON: {text}");
    }
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_failure_on_a_terminal_is_a_sentence_and_a_hint() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("PATH", "/nonexistent");
    for (arguments, code) in [(&["start"][..], 3), (&["version"], 5), (&["restart"], 3)] {
        let (exit, text) = on_terminal(&codexd, arguments)?;
        let lines: Vec<&str> = text.lines().collect();
        ensure!(exit == Some(code), "{arguments:?}: {exit:?} {text}");
        ensure!(lines.len() == 2 && lines[0].starts_with("error: "), "{arguments:?}: {text}");
        ensure!(lines[1].starts_with("  hint: "), "{arguments:?}: {text}");
    }
    Ok(())
}

#[test]
fn a_command_line_that_is_not_understood_is_answered_in_text_on_a_terminal() -> anyhow::Result<()> {
    let home = Home::new()?;
    let (code, text) = on_terminal(&Codexd::new(&home)?, &["start", "--bogus"])?;
    ensure!(code == Some(2) && text.contains("--bogus") && !text.contains('{'), "{code:?} {text}");
    Ok(())
}

#[test]
fn color_follows_the_terminal_and_the_variables_that_control_it() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = || Ok::<_, anyhow::Error>(Codexd::new(&home)?.env("TERM", "xterm"));
    let has_color = |printed: &str| printed.contains("\u{1b}[");
    ensure!(has_color(&on_terminal(&codexd()?, &["status"])?.1), "on a terminal");
    for (variable, value) in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
        let printed = on_terminal(&codexd()?.env(variable, value), &["status"])?.1;
        ensure!(!has_color(&printed), "{variable}: {printed}");
    }
    let piped = codexd()?.env("CLICOLOR_FORCE", "1").run(&["status", "--text"])?;
    ensure!(has_color(&piped.stdout), "{piped}");
    ensure!(!has_color(&codexd()?.run(&["status", "--text"])?.stdout), "in a pipe");
    Ok(())
}

#[test]
fn json_can_be_forced_on_a_terminal_and_text_elsewhere() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("PATH", "/nonexistent");
    let (_, printed) = on_terminal(&codexd, &["start", "--json"])?;
    ensure!(printed.contains(r#""code":"codex-not-found""#), "{printed}");
    let (_, printed) = on_terminal(&codexd, &["start", "--bogus", "--json"])?;
    ensure!(printed.contains(r#""code":"bad-arguments""#), "{printed}");
    let run = codexd.run(&["stop", "--text"])?;
    ensure!(run.success() && run.stdout == "app-server not running\n", "{run}");
    Ok(())
}
