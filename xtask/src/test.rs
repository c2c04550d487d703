//! `cargo xtask test`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, bail, ensure};
use codexd_testkit::skip::SKIP_LOG;

use crate::{needs, reaping};

mod counts;
mod skips;
use counts::Counts;
use skips::Skips;

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Run only tests whose name contains this, and leave out the checks of style and the doctests.
    filter: Option<String>,
    /// Use `cargo test` although cargo-nextest is there.
    #[arg(long)]
    without_nextest: bool,
    /// Succeed although tests are skipped that are not on the list of expected skips: on a machine that lacks something.
    #[arg(long)]
    allow_skips: bool,
}

/// Runs the tests and prints the counts as the last line.
///
/// # Errors
/// Something that the tests need is missing, or nothing can be built.
pub fn test(options: &Options) -> anyhow::Result<ExitCode> {
    needs::releases()?;
    needs::note_missing_programs();
    let complaints = if options.filter.is_none() { style()? } else { Vec::new() };
    let skips = tempfile::Builder::new().prefix("codexd-skips-").tempfile()?;
    // The binary first: tests of other packages run it too.
    let built = needs::cargo().args(["build", "--quiet", "--workspace", "--all-targets"]).status()?;
    ensure!(built.success(), "the build failed");
    let mut counts = run_tests(options, skips.path())?;
    if options.filter.is_none() {
        let mut doctests = needs::cargo();
        doctests.args(["test", "--quiet", "--workspace", "--doc"]).env(SKIP_LOG, skips.path());
        counts += tee(doctests, "the doctests")?;
    }
    let skipped = std::fs::read_to_string(skips.path()).context("the list of skipped tests is gone")?;
    for complaint in &complaints {
        eprintln!("error: {complaint}");
    }
    counts.failed += complaints.len();
    Ok(report(counts, &Skips::read(&skipped), options.allow_skips))
}

/// Checks the formatting and the lints; the tests run all the same, so that one run tells everything.
fn style() -> anyhow::Result<Vec<String>> {
    let mut complaints = Vec::new();
    let checks: [(&str, &[&str], &str); 2] = [
        ("fmt", &["--all", "--check"], "run `cargo fmt --all`"),
        (
            "clippy",
            &["--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"],
            "each warning above is to be resolved",
        ),
    ];
    for (tool, arguments, advice) in checks {
        if !needs::answers(needs::cargo().args([tool, "--version"])) {
            bail!("cargo {tool} is missing; install it with `rustup component add rustfmt clippy`");
        }
        eprintln!("cargo {tool} {}", arguments.join(" "));
        let status = needs::cargo().arg(tool).args(arguments).status()?;
        if !status.success() {
            complaints.push(format!("cargo {tool} is not content; {advice}"));
        }
    }
    Ok(complaints)
}

fn run_tests(options: &Options, skips: &Path) -> anyhow::Result<Counts> {
    let nextest = !options.without_nextest && needs::answers(needs::cargo().args(["nextest", "--version"]));
    let mut command = needs::cargo();
    if nextest {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(&options.filter);
    } else {
        eprintln!("note: running `cargo test`; with cargo-nextest a test that hangs would be ended");
        // `--all-targets` would run benches, and leave out nothing else; doctests come later.
        command
            .args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"])
            .args(&options.filter);
    }
    command.env(SKIP_LOG, skips).env("CODEXD_TEST_BINARY", built_binary()?);
    let mut counts = tee(command, "the tests")?;
    if options.filter.is_some() {
        counts.ignored = 0;
    }
    Ok(counts)
}

/// The `codexd` beside this very program.
fn built_binary() -> anyhow::Result<std::path::PathBuf> {
    let folder = std::env::current_exe()?;
    Ok(folder.with_file_name("codexd"))
}

/// Runs a command, shows what it says, and counts the tests that it speaks of.
fn tee(mut command: Command, what: &str) -> anyhow::Result<Counts> {
    command.env("CARGO_TERM_COLOR", "never");
    let (read_out, write_out) = std::io::pipe()?;
    command.stdout(write_out.try_clone()?).stderr(write_out).stdin(Stdio::null());
    let reader = thread::spawn(move || {
        let mut counts = Counts::default();
        let mut lines = BufReader::new(read_out);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            // A reader that is gone does not keep the tests from being counted.
            let _shown = std::io::stdout().write_all(&line);
            counts.read_line(&String::from_utf8_lossy(&line));
            line.clear();
        }
        counts
    });
    let status = reaping::run(&mut command)?;
    // The pipe's other end is closed only when the command is dropped, too.
    drop(command);
    let Ok(mut counts) = reader.join() else { bail!("counting {what} failed") };
    if !status.success() && counts.failed == 0 {
        counts.failed = 1;
        eprintln!("error: {what} ended with {status} without a count");
    }
    Ok(counts)
}

fn report(counts: Counts, skips: &Skips, allow_skips: bool) -> ExitCode {
    for skip in &skips.all {
        println!("skipped: {skip}");
    }
    if counts.ignored > 0 {
        println!("skipped: {} tests are marked #[ignore]", counts.ignored);
    }
    for skip in &skips.unexpected {
        eprintln!("error: this skip is not on the list of expected skips, {}: {skip}", skips::LIST);
    }
    let passed = counts.passed.saturating_sub(skips.all.len());
    println!("{passed} passed, {} failed, {} skipped", counts.failed, skips.all.len() + counts.ignored);
    let skips_are_expected = allow_skips || (skips.unexpected.is_empty() && counts.ignored == 0);
    if counts.failed == 0 && skips_are_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
