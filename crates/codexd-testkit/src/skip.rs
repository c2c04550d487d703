//! Tests that cannot run on this machine: counted, with their reason.
//!
//! `cargo xtask test` names a file in `CODEXD_SKIP_LOG`; every skipped test adds one line `test<TAB>reason` to it.

use std::fs::OpenOptions;
use std::io::Write;

/// The environment variable that names the file of skipped tests.
pub const SKIP_LOG: &str = "CODEXD_SKIP_LOG";

/// Ends the test here, and records why: `skip!("no systemd on this machine")`.
///
/// Works in tests that return nothing and in tests that return a `Result<(), _>`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::skip::record(&format!($($reason)+));
        return $crate::skip::Skipped::skipped();
    }};
}

/// What a skipped test returns.
pub trait Skipped {
    /// The value of a test that did not fail.
    fn skipped() -> Self;
}

impl Skipped for () {
    fn skipped() -> Self {}
}

impl<E> Skipped for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Writes one line about the running test; called by [`skip!`].
///
/// # Panics
/// If the log is named but cannot be written: an uncounted skip would look like a pass.
pub fn record(reason: &str) {
    let test = std::env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| std::thread::current().name().map(str::to_owned))
        .unwrap_or_else(|| "unnamed".to_owned());
    eprintln!("skipped: {test}: {reason}");
    let Some(path) = std::env::var_os(SKIP_LOG) else { return };
    let line = format!("{test}\t{}\n", reason.replace('\n', " "));
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        panic!("failed to record a skipped test in {}: {error}", path.display());
    }
}
