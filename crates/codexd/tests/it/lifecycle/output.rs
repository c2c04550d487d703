//! What reaches stdout: one JSON object, whatever happens.

use std::collections::BTreeSet;
use std::process::Stdio;

use codexd_testkit::{Codexd, Fake, Home, Layout};

#[test]
fn bad_arguments_are_reported_in_json() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    for (arguments, named) in [
        (vec!["start", "--bogus"], "--bogus"),
        (vec!["nonsense"], "nonsense"),
        (vec!["stop", "--grace", "soon"], "soon"),
        (vec!["stop", "--grace", "99999999"], "99999999"),
        (vec!["status", "--json", "--text"], "--text"),
        (vec!["logs", "--follow", "--json"], "--json"),
        (vec![], "codexd"),
    ] {
        let run = codexd.run(&arguments)?;
        let json = run.json()?;
        assert_eq!((run.code(), &json["error"]["code"]), (Some(2), &"bad-arguments".into()), "{arguments:?}");
        assert!(run.stderr.contains(named), "{arguments:?} names {named}: {}", run.stderr);
    }
    Ok(())
}

#[test]
fn a_full_or_closed_stdout_is_an_exit_code_and_not_a_panic() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let mut full = codexd.command(&["status"]);
    let full = full.stdout(std::fs::File::create("/dev/full")?).stderr(Stdio::piped()).output()?;
    assert_eq!(full.status.code(), Some(15), "{}", String::from_utf8_lossy(&full.stderr));
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut closed = codexd.command(&["status"]);
    let closed = closed.stdout(writer).stderr(Stdio::piped()).output()?;
    assert_eq!(closed.status.code(), Some(15), "{}", String::from_utf8_lossy(&closed.stderr));
    assert!(!String::from_utf8_lossy(&closed.stderr).contains("panicked"));
    Ok(())
}

#[test]
fn upstreams_spelling_of_a_command_is_the_same_command() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    assert_eq!(codexd.json(&["app-server", "daemon", "start"])?["status"], "started");
    assert_eq!(codexd.json(&["app-server", "daemon", "version"])?["status"], "running");
    assert_eq!(codexd.json(&["app-server", "daemon", "stop"])?["status"], "stopped");
    Ok(())
}

#[test]
fn docs_list_the_error_codes_of_the_program() -> anyhow::Result<()> {
    let home = Home::new()?;
    let table = Codexd::new(&home)?.run(&["error-table"])?.stdout;
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let docs = std::fs::read_to_string(docs)?;
    assert!(docs.contains(table.trim()), "docs/errors.md must hold exactly:\n{table}");
    Ok(())
}

#[test]
fn text_is_for_people_and_json_is_accepted_everywhere() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    for command in ["up", "start", "status", "version", "logs", "restart", "reload", "enable-remote-control"]
    {
        codexd.json(&[command, "--json"])?;
    }
    let text = codexd.run(&["status", "--text"])?;
    assert!(text.stdout.starts_with("state ") && text.stdout.contains("running"), "{}", text.stdout);
    assert!(!text.stdout.contains('\u{1b}'), "no color where there is no terminal");
    let up = codexd.run(&["up", "--text"])?;
    assert!(up.stdout.contains("codex --remote unix://"), "{}", up.stdout);
    codexd.json(&["stop", "--json"])?;
    Ok(())
}

#[test]
fn up_without_a_codex_announces_and_runs_the_built_in_server() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("PATH", "/nonexistent");
    let up = codexd.run(&["up"])?;
    let json = up.success_json()?;
    assert_eq!((&json["status"], &json["embedded"]), (&"started".into(), &true.into()), "{json}");
    let first = up.stderr.lines().next().unwrap_or_default();
    assert!(first.contains("built-in") && first.contains("codexd install"), "{first}");
    // As soon as there is a real one, the stand-in makes way.
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let json = codexd.json(&["up"])?;
    assert_eq!((&json["status"], json.get("embedded")), (&"restarted".into(), None), "{json}");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn without_a_codex_start_reports_where_it_searched_and_how_to_install_one() -> anyhow::Result<()> {
    let home = Home::new()?;
    let run = Codexd::new(&home)?.env("PATH", "/nonexistent").run(&["start"])?;
    let error = run.json()?["error"].clone();
    assert_eq!((run.code(), &error["code"]), (Some(3), &"codex-not-found".into()));
    let looked: BTreeSet<&str> = error["lookedAt"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|looked| looked["path"].as_str())
        .collect();
    assert!(looked.iter().any(|path| path.ends_with("packages/standalone/current/codex")));
    assert!(looked.contains("/nonexistent/codex"));
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("codexd install")));
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn without_a_codex_answers_name_the_place_where_it_would_be_and_people_are_told_that_it_is_not()
-> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("PATH", "/nonexistent");
    let managed = home.managed_codex(Layout::Standalone);
    let named = home.root().join("named").to_string_lossy().into_owned();
    for command in ["status", "stop"] {
        let answer = codexd.json(&[command])?;
        assert_eq!(answer["managedCodexPath"].as_str(), managed.to_str(), "{answer}");
        assert!(answer["managedCodexVersion"].is_null(), "{answer}");
        let answer = codexd.json(&[command, "--codex-bin", &named])?;
        assert_eq!(answer["managedCodexPath"], *named, "{answer}");
    }
    let text = codexd.run(&["status", "--text"])?.stdout;
    assert!(text.contains("no Codex") && !text.contains("packages/standalone"), "{text}");
    Ok(())
}

#[test]
fn text_names_no_other_version_if_codex_is_no_longer_installed() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    std::fs::rename(home.path().join("packages"), home.path().join("packages-were"))?;
    let without = Codexd::new(&home)?.env("PATH", "/nonexistent");
    let text = without.run(&["status", "--text"])?.stdout;
    assert!(text.contains("no Codex") && !text.contains("another version is installed"), "{text}");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_missing_home_is_reported_with_its_path() -> anyhow::Result<()> {
    let home = Home::new()?;
    let missing = home.root().join("missing").to_string_lossy().into_owned();
    for command in ["start", "status", "version"] {
        let run = Codexd::new(&home)?.run(&[command, "--codex-home", &missing])?;
        assert_eq!(run.code(), Some(16), "{command}");
        assert!(run.json()?["error"]["message"].as_str().is_some_and(|message| message.contains(&missing)));
    }
    Ok(())
}
