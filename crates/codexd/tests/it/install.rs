//! `codexd install`, with small stand-in packages and with the real ones.

mod killed;
mod real;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Fake, Home, codex, limits, package, run, until};
use rustix::process::Signal;
use serde_json::Value;

/// Where the managed releases of a home are.
fn store(home: &Home) -> PathBuf {
    home.path().join("packages/standalone")
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The name of the release of a version on this machine.
fn name(version: &str) -> anyhow::Result<String> {
    Ok(format!("{version}-{}", codex::platform().map_err(anyhow::Error::msg)?.1))
}

/// A release of a version in a folder of the home, as the value of `--source`.
fn directory(home: &Home, version: &str, fake: &Fake) -> anyhow::Result<String> {
    let folder = home.root().join(format!("release-{version}"));
    package::release(&folder, version, fake)?;
    Ok(format!("directory:{}", folder.display()))
}

/// Fails unless the release is selected and complete, and nothing unfinished is left.
fn assert_selected(home: &Home, version: &str) -> anyhow::Result<()> {
    let store = store(home);
    let current = fs::read_link(store.join("current")).context("no current release")?;
    ensure!(current == store.join("releases").join(name(version)?), "current leads to {}", current.display());
    let mut codex = home.command(current.join("codex"));
    codex.arg("--version");
    let printed = run::run(codex, limits::RUN)?;
    ensure!(printed.stdout.trim() == format!("codex-cli {version}"), "{printed}");
    for folder in [store.clone(), store.join("releases")] {
        let unfinished: Vec<String> = names(&folder)?
            .into_iter()
            .filter(|name| name.starts_with('.') || name.ends_with(".tmp"))
            .collect();
        ensure!(unfinished.is_empty(), "{} has {unfinished:?}", folder.display());
    }
    await_no_process(home)
}

/// Waits until no process of the home is left: a supervisor that has nothing to do exits after the answer of the last command.
fn await_no_process(home: &Home) -> anyhow::Result<()> {
    until(limits::PROCESS_GONE, "the exit of all processes", || home.processes().is_empty().then_some(()))
}

fn code_of(run: &codexd_testkit::Run) -> anyhow::Result<String> {
    Ok(run.json()?["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_release_from_a_folder_is_installed_and_serves() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let answer = codexd.json(&["install", "--source", &directory(&home, "0.171.0", &Fake::Healthy)?])?;
    let path = store(&home).join("releases").join(name("0.171.0")?);
    ensure!(answer["status"] == "installed" && answer["version"] == "0.171.0", "{answer}");
    ensure!(
        answer["path"] == path.to_string_lossy().as_ref() && answer["previousVersion"] == Value::Null,
        "{answer}"
    );
    assert_selected(&home, "0.171.0")?;
    let started = codexd.json(&["start"])?;
    ensure!(
        started["managedCodexVersion"] == "0.171.0" && started["managedCodexSource"] == "managed",
        "{started}"
    );
    // The source is that of the release before; the server runs on.
    let again = codexd.json(&["install", "0.171.0"])?;
    ensure!(again["status"] == "alreadyInstalled" && again["source"] == answer["source"], "{again}");
    let newer = codexd.json(&["install", "--source", &directory(&home, "0.172.0", &Fake::Healthy)?])?;
    ensure!(newer["status"] == "installed" && newer["previousVersion"] == "0.171.0", "{newer}");
    let back =
        codexd.json(&["install", "0.171.0", "--source", &directory(&home, "0.171.0", &Fake::Healthy)?])?;
    ensure!(back["status"] == "selected" && back["previousVersion"] == "0.172.0", "{back}");
    ensure!(codexd.json(&["status"])?["pid"] == started["pid"], "the server was touched");
    codexd.json(&["stop"])?;
    let listed = codexd.json(&["releases"])?;
    ensure!(listed["currentVersion"] == "0.171.0" && listed["previousVersion"] == "0.172.0", "{listed}");
    let versions: Vec<&Value> =
        listed["releases"].as_array().into_iter().flatten().map(|entry| &entry["version"]).collect();
    ensure!(
        versions == ["0.172.0", "0.171.0"] && listed["releases"][1]["source"] == answer["source"],
        "{listed}"
    );
    let events = fs::read_to_string(home.state("events.jsonl"))?;
    ensure!(events.matches("\"release.selected\"").count() == 3, "{events}");
    assert_selected(&home, "0.171.0")
}

#[test]
fn a_package_of_npm_is_installed_from_a_file_and_by_the_npm_client() -> anyhow::Result<()> {
    let home = Home::new()?;
    let archive = package::tarball(&home.root().join("p"), "0.171.0", &Fake::Healthy)?;
    let file = Codexd::new(&home)?.json(&["install", "--source", &format!("file:{}", archive.display())])?;
    let digest = file["digest"].as_str().context("a digest")?;
    assert_selected(&home, "0.171.0")?;
    let client = Home::new()?;
    let folder = package::npm(&client.root().join("npm"), "0.171.0", &archive, digest, "")?;
    let codexd =
        Codexd::new(&client)?.env("PATH", &format!("{}:{}", folder.display(), std::env::var("PATH")?));
    let npm = codexd.json(&["install", "0.171.0"])?;
    ensure!(npm["source"] == "npm" && npm["digest"] == digest && npm["status"] == "installed", "{npm}");
    assert_selected(&client, "0.171.0")?;
    ensure!(codexd.json(&["install"])?["status"] == "alreadyInstalled");
    let missing = codexd.run(&["install", "0.170.0"])?;
    ensure!(code_of(&missing)? == "version-not-found" && missing.code() == Some(41), "{missing}");
    assert_selected(&client, "0.171.0")
}

#[test]
fn a_tampered_package_is_refused_and_nothing_stays() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["install", "--source", &directory(&home, "0.169.0", &Fake::Healthy)?])?;
    let archive = package::tarball(&home.root().join("p"), "0.171.0", &Fake::Healthy)?;
    let other = package::tarball(&home.root().join("q"), "0.171.0", &Fake::SlowStart(1))?;
    let good =
        Codexd::new(&Home::new()?)?.run(&["install", "--source", &format!("file:{}", archive.display())])?;
    let digest = good.json()?["digest"].as_str().context("a digest")?.to_owned();
    let folder = package::npm(&home.root().join("npm"), "0.171.0", &other, &digest, "")?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let refused = codexd.clone().env("PATH", &path).run(&["install", "--source", "npm"])?;
    let error = &refused.json()?["error"];
    ensure!(error["code"] == "digest-mismatch" && refused.code() == Some(42), "{refused}");
    ensure!(error["expected"] == digest.trim_start_matches("sha512-") && error["source"] == "npm", "{error}");
    package::npm(&folder, "0.171.0", &other, "sha1-x", "")?;
    let refused = codexd.clone().env("PATH", &path).run(&["install", "--source", "npm"])?;
    ensure!(
        code_of(&refused)? == "source-unreachable",
        "a registry without digests is not trusted: {refused}"
    );
    let bytes = fs::read(&other)?;
    fs::write(&other, &bytes[..bytes.len() / 2])?;
    let refused = codexd.run(&["install", "--source", &format!("file:{}", other.display())])?;
    ensure!(code_of(&refused)? == "archive-invalid" && refused.code() == Some(43), "{refused}");
    ensure!(names(&store(&home).join("releases"))? == [name("0.169.0")?]);
    assert_selected(&home, "0.169.0")
}

#[test]
fn a_release_that_does_not_work_is_proved_and_refused() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["install", "--source", &directory(&home, "0.169.0", &Fake::Healthy)?])?;
    for (fake, cause) in [
        (Fake::ExitsAtOnce("Error: it is broken", 7), "ended (exit status: 7) before it answered"),
        (Fake::NotAProgram, "--version"),
        (Fake::VersionHangs, "hung"),
    ] {
        let source = directory(&home, "0.171.0", &fake)?;
        let refused = codexd.run(&["install", "--source", &source])?;
        let error = refused.json()?["error"].clone();
        ensure!(error["code"] == "candidate-unfit" && refused.code() == Some(46), "{fake:?}: {refused}");
        ensure!(error["cause"].as_str().is_some_and(|text| text.contains(cause)), "{fake:?}: {error}");
        ensure!(error["source"] == source.as_str(), "{error}");
        assert_selected(&home, "0.169.0").with_context(|| format!("{fake:?}"))?;
    }
    let lies = home.root().join("lies");
    package::release(&lies, "0.171.0", &Fake::Healthy)?;
    let text = fs::read_to_string(lies.join("codex-package.json"))?.replace("0.171.0", "0.172.0");
    fs::write(lies.join("codex-package.json"), text)?;
    let refused = codexd.run(&["install", "--source", &format!("directory:{}", lies.display())])?;
    ensure!(code_of(&refused)? == "candidate-unfit", "{refused}");
    let other = codexd.run(&["install", "0.173.0", "--source", &format!("directory:{}", lies.display())])?;
    ensure!(code_of(&other)? == "version-not-found", "{other}");
    fs::remove_file(lies.join("codex-path/rg"))?;
    let incomplete = codexd.run(&["install", "--source", &format!("directory:{}", lies.display())])?;
    ensure!(code_of(&incomplete)? == "release-incomplete" && incomplete.code() == Some(45), "{incomplete}");
    assert_selected(&home, "0.169.0")
}

#[test]
fn bad_sources_and_versions_are_refused_by_name() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    for (arguments, code, named) in [
        (&["install", "newest"][..], "bad-arguments", "newest"),
        (&["install", "../../x"], "bad-arguments", "../../x"),
        (&["install", "--source", "ftp:x"], "bad-arguments", "ftp:x"),
        (&["install", "--source", "directory:/no/such/folder"], "source-unreachable", "/no/such/folder"),
        (&["install", "--source", "file:/dev/null"], "source-unreachable", "/dev/null"),
    ] {
        let refused = codexd.run(arguments)?;
        ensure!(code_of(&refused)? == code && refused.stderr.contains(named), "{arguments:?}: {refused}");
    }
    let none = codexd.clone().env("PATH", "/no/such/folder").run(&["install", "--source", "npm"])?;
    ensure!(code_of(&none)? == "source-unreachable" && none.code() == Some(40), "{none}");
    home.write("codexd.toml", "[install]\nsource = \"npn\"\n")?;
    let refused = codexd.run(&["install"])?;
    ensure!(
        code_of(&refused)? == "settings-invalid" && refused.stderr.contains("install.source"),
        "{refused}"
    );
    let source = directory(&home, "0.171.0", &Fake::Healthy)?;
    home.write("codexd.toml", format!("[install]\nsource = \"{source}\"\n"))?;
    ensure!(codexd.json(&["install"])?["source"] == source.as_str());
    assert_selected(&home, "0.171.0")
}

#[test]
fn another_installer_is_waited_for() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let source = directory(&home, "0.171.0", &Fake::Healthy)?;
    fs::create_dir_all(store(&home))?;
    let lock = fs::File::create(store(&home).join("install.lock"))?;
    lock.lock()?;
    let refused = codexd.run(&["install", "--source", &source, "--lock-timeout", "0"])?;
    ensure!(code_of(&refused)? == "install-locked" && refused.code() == Some(47), "{refused}");
    let waiting = codexd.spawn(&["install", "--source", &source])?;
    ensure!(
        codexd.json(&["start", "--embedded"])?["status"] == "started",
        "the operation lock is free meanwhile"
    );
    codexd.json(&["stop"])?;
    drop(lock);
    ensure!(waiting.finish(limits::RUN)?.success_json()?["status"] == "installed");
    assert_selected(&home, "0.171.0")
}

#[test]
fn an_interrupted_install_ends_npm_and_the_next_one_removes_what_it_left() -> anyhow::Result<()> {
    let home = Home::new()?;
    let archive = package::tarball(&home.root().join("p"), "0.171.0", &Fake::Healthy)?;
    let begun = home.root().join("begun");
    let hangs = format!("touch '{}'; sleep 1000000 & exec sleep 1000000", begun.display());
    let digest = format!("sha512-{}==", "A".repeat(86));
    let folder = package::npm(&home.root().join("npm"), "0.171.0", &archive, &digest, &hangs)?;
    let codexd = Codexd::new(&home)?;
    let with_npm = codexd.clone().env("PATH", &format!("{}:{}", folder.display(), std::env::var("PATH")?));
    let running = with_npm.spawn(&["install", "--source", "npm"])?;
    until(limits::RUN, "npm packs", || begun.exists().then_some(()))?;
    let process = codexd_testkit::Process::of(running.pid()).context("it runs")?;
    process.signal(Signal::TERM)?;
    let run = running.finish(limits::RUN)?;
    ensure!(code_of(&run)? == "interrupted" && run.code() == Some(19), "{run}");
    await_no_process(&home)?;
    ensure!(!store(&home).join("current").exists());
    codexd.json(&["install", "--source", &format!("file:{}", archive.display())])?;
    assert_selected(&home, "0.171.0")
}

/// An installer that works as the official one does, as far as codexd is concerned; it prints its environment.
fn installer(home: &Home, release: &Path, more: &str) -> anyhow::Result<String> {
    let script = home.root().join("install.sh");
    let name = name("0.171.0")?;
    let text = format!(
        "echo \"$HOME $CODEX_HOME $CODEX_INSTALL_DIR $CODEX_RELEASE $CODEX_NON_INTERACTIVE\"\n{more}\n\
         root=$CODEX_HOME/packages/standalone\nmkdir -p \"$root/releases\" \"$CODEX_INSTALL_DIR\"\n\
         cp -a '{}' \"$root/releases/{name}\"\nln -sf bin/codex \"$root/releases/{name}/codex\"\n\
         ln -s \"$root/releases/{name}\" \"$root/current\"\necho x >> \"$HOME/.profile\"\n",
        release.display()
    );
    fs::write(&script, text)?;
    Ok(format!("script:{}", script.display()))
}

#[test]
fn the_official_installer_gets_a_home_of_its_own() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let release = home.root().join("r");
    package::release(&release, "0.171.0", &Fake::Healthy)?;
    let fails = installer(&home, &release, "echo 'no such release' >&2; exit 3")?;
    let refused = codexd.run(&["install", "--source", &fails])?;
    let error = refused.json()?["error"].clone();
    ensure!(error["code"] == "source-unreachable" && refused.stderr.contains("no such release"), "{refused}");
    let output = error["output"].as_str().unwrap_or_default();
    let staging = store(&home).join("releases/.staging.");
    ensure!(
        output.matches(&staging.display().to_string()).count() == 3 && output.contains(" latest 1"),
        "{output}"
    );
    ensure!(names(&store(&home).join("releases"))?.is_empty());
    let works = installer(&home, &release, "")?;
    let answer = codexd.json(&["install", "0.171.0", "--source", &works])?;
    ensure!(answer["status"] == "installed" && answer["source"] == works.as_str(), "{answer}");
    ensure!(names(&home.profile())?.is_empty(), "the profile of the user was changed");
    assert_selected(&home, "0.171.0")?;
    // The release is there, so the installer is not needed.
    fs::remove_file(home.root().join("install.sh"))?;
    fs::write(home.root().join("install.sh"), "exit 1")?;
    ensure!(codexd.json(&["install", "0.171.0", "--source", &works])?["status"] == "alreadyInstalled");
    let other = codexd.run(&["install", "0.170.0", "--source", &works])?;
    ensure!(code_of(&other)? == "source-unreachable", "{other}");
    Ok(())
}

#[test]
fn the_official_server_is_used_and_an_older_newest_version_is_refused() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let archive = package::tarball(&home.root().join("p"), "0.171.0", &Fake::Healthy)?;
    let old = package::tarball(&home.root().join("o"), "0.169.0", &Fake::Healthy)?;
    let source = format!("official:{}", package::official("0.171.0", &archive, &archive)?);
    let tampered = format!("official:{}", package::official("0.171.0", &archive, &old)?);
    let refused = codexd.run(&["install", "--source", &tampered])?;
    let error = refused.json()?["error"].clone();
    ensure!(error["code"] == "digest-mismatch" && error["digest"] == "sha256", "{refused}");
    ensure!(error["subject"].as_str().is_some_and(|name| name.starts_with("codex-package-")), "{error}");
    ensure!(names(&store(&home).join("releases"))?.is_empty());
    let answer = codexd.json(&["install", "--source", &source])?;
    ensure!(answer["status"] == "installed" && answer["source"] == source.as_str(), "{answer}");
    ensure!(answer["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256-")), "{answer}");
    ensure!(codexd.json(&["install"])?["source"] == source.as_str(), "the source of the current release");
    let older = format!("official:{}", package::official("0.169.0", &old, &old)?);
    let refused = codexd.run(&["install", "--source", &older])?;
    ensure!(code_of(&refused)? == "downgrade-refused" && refused.code() == Some(51), "{refused}");
    assert_selected(&home, "0.171.0")?;
    codexd.json(&["install", "0.169.0", "--source", &older])?;
    let missing = codexd.run(&["install", "0.1.0", "--source", &older])?;
    ensure!(code_of(&missing)? == "version-not-found", "{missing}");
    let nothing = codexd.run(&["install", "--source", "official:http://127.0.0.1:1"])?;
    ensure!(code_of(&nothing)? == "source-unreachable", "{nothing}");
    assert_selected(&home, "0.169.0")
}
