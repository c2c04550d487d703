//! What the tests need of the machine.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use codexd_testkit::{Version, codex};

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or_else(|| own.to_owned(), Path::to_owned)
}

/// cargo, as it called us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).stdin(Stdio::null());
    command
}

/// Whether a program answers `--version`.
pub fn answers(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Makes sure that every real release is in the cache, and in the machine's memory: upstream's daemons give a server that is
/// still being read from a slow disk no longer than any other.
///
/// # Errors
/// One cannot be installed; the sentence says what to do.
pub fn releases() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        eprintln!("note: {reason}; the tests that compare with it are skipped");
        return Ok(());
    }
    for version in Version::ALL {
        if let Some(binary) = codex::cached(version)? {
            read_through(&binary)?;
            continue;
        }
        for program in ["node", "npm"] {
            if !answers(Command::new(program).arg("--version")) {
                bail!(
                    "Codex {version} is not in {} and {program} is missing to install it; \
                     install Node.js with npm (Debian: apt-get install nodejs npm) and run this again",
                    codex::cache_folder()?.display()
                );
            }
        }
        eprintln!("installing Codex {version} into {}", codex::cache_folder()?.display());
        let binary = codex::binary(version).with_context(|| format!("failed to install Codex {version}"))?;
        read_through(&binary)?;
    }
    Ok(())
}

fn read_through(file: &Path) -> anyhow::Result<()> {
    let read = File::open(file).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
    read.map(drop).with_context(|| format!("failed to read {}", file.display()))
}

/// Programs without which some tests are skipped or fail, with what they are for; prints a note for each that is missing.
pub fn note_missing_programs() {
    let programs = [
        ("strace", "killing a command at every system call"),
        ("curl", "the download of install.sh"),
        ("dpkg", "the .deb"),
        ("perl", "the fake server that never answers"),
        ("ps", "the daemon of Codex 0.131.0, which codexd is compared with"),
        ("setsid", "processes that leave their session"),
        ("tmux", "the real terminal client"),
        ("systemctl", "codexd under a systemd user manager"),
    ];
    for (program, purpose) in programs {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
            eprintln!("note: {program} is missing; it is needed for {purpose}");
        }
    }
}
