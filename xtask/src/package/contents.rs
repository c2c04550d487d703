//! What every package carries: the binary, man pages, completions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::linkage::Linkage;
use super::{output, write};
use crate::needs;

/// The files, made by the binary itself, so that they fit it.
pub struct Contents {
    pub codexd: PathBuf,
    pub version: String,
    pub linkage: Linkage,
    /// The time of every file, in seconds since 1970: that of the commit, so that two builds are the same.
    pub epoch: u64,
    pub man_pages: Vec<PathBuf>,
    /// Script and shell.
    pub completions: Vec<(Shell, Vec<u8>)>,
    /// Holds the man pages.
    _folder: TempDir,
}

/// A shell that packages have completions for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub const ALL: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

    fn name(self) -> &'static str {
        match self {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
        }
    }

    /// The file below `share/` where the shell looks; `zsh_folder` is the one thing that differs between systems.
    pub fn file(self, zsh_folder: &str) -> PathBuf {
        match self {
            Shell::Bash => "bash-completion/completions/codexd".into(),
            Shell::Zsh => Path::new("zsh").join(zsh_folder).join("_codexd"),
            Shell::Fish => "fish/vendor_completions.d/codexd.fish".into(),
        }
    }
}

impl Contents {
    /// The files of this codexd.
    ///
    /// # Errors
    /// It does not answer.
    pub fn of(codexd: &Path) -> anyhow::Result<Contents> {
        let folder = tempfile::Builder::new().prefix("codexd-package-").tempdir()?;
        let run = |words: &[&str]| output(Command::new(codexd).args(words));
        let printed = String::from_utf8(run(&["--version"])?)?;
        let version = printed.trim().strip_prefix("codexd ").context("the binary is not codexd")?.to_owned();
        output(Command::new(codexd).arg("man-pages").arg(folder.path()))?;
        let mut man_pages = Vec::new();
        for entry in fs::read_dir(folder.path())? {
            man_pages.push(entry?.path());
        }
        man_pages.sort();
        ensure!(!man_pages.is_empty(), "codexd wrote no man page");
        let mut completions = Vec::new();
        for shell in Shell::ALL {
            completions.push((shell, run(&["completions", shell.name()])?));
        }
        Ok(Contents {
            codexd: codexd.to_owned(),
            version,
            linkage: Linkage::of(codexd)?,
            epoch: epoch()?,
            man_pages,
            completions,
            _folder: folder,
        })
    }

    /// Writes the completions below `share`.
    pub fn write_completions(&self, share: &Path, zsh_folder: &str) -> anyhow::Result<()> {
        self.completions
            .iter()
            .try_for_each(|(shell, script)| write(&share.join(shell.file(zsh_folder)), script, 0o644))
    }
}

/// `SOURCE_DATE_EPOCH`, else the time of the commit, else 1980: no older time fits every format.
fn epoch() -> anyhow::Result<u64> {
    const FALLBACK: u64 = 315_532_800;
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given.parse().context("SOURCE_DATE_EPOCH is not a number");
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(needs::workspace());
    let time = output(&mut git).ok().and_then(|time| String::from_utf8(time).ok());
    Ok(time.and_then(|time| time.trim().parse().ok()).unwrap_or(FALLBACK))
}
