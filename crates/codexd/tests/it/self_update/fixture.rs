//! A codexd that may be replaced: a copy of the built one in a folder of its own.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, Run, codexd};

/// The copy and its home.
pub struct Installed {
    pub home: Home,
    pub binary: PathBuf,
}

impl Installed {
    /// `ROOT/bin/codexd`, old enough to count as outdated beside a new one.
    pub fn new() -> anyhow::Result<Installed> {
        Installed::below("bin")
    }

    /// The binary in a folder of the home's root.
    pub fn below(folder: &str) -> anyhow::Result<Installed> {
        let home = Home::new()?;
        let binary = home.root().join(folder).join("codexd");
        fs::create_dir_all(binary.parent().context("a folder")?)?;
        // Less to copy and to hash.
        let stripped = Command::new("strip").arg("-o").arg(&binary).arg(codexd::binary()?).output();
        if !stripped.is_ok_and(|output| output.status.success()) {
            fs::copy(codexd::binary()?, &binary)?;
        }
        let installed = Installed { home, binary };
        installed.make_old()?;
        Ok(installed)
    }

    fn make_old(&self) -> anyhow::Result<()> {
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        Ok(File::open(&self.binary)?.set_modified(before)?)
    }

    pub fn codexd(&self) -> Codexd<'_> {
        Codexd::at(&self.home, &self.binary)
    }

    /// Another codexd that runs as well: what follows an ELF file is not loaded.
    pub fn newer(&self) -> anyhow::Result<PathBuf> {
        let path = self.home.root().join("newer-codexd");
        if !path.exists() {
            fs::write(&path, [&fs::read(&self.binary)?[..], b"newer"].concat())?;
        }
        Ok(path)
    }

    pub fn update(&self, from: &Path) -> anyhow::Result<Run> {
        self.codexd().run(&["self-update".as_ref(), "--from".as_ref(), from.as_os_str()])
    }

    /// A tarball as `cargo xtask package` builds it, with this binary.
    pub fn tarball(&self, binary: &Path) -> anyhow::Result<PathBuf> {
        let folder = self.home.root().join("codexd-9.9.9-target/bin");
        fs::create_dir_all(&folder)?;
        fs::copy(binary, folder.join("codexd"))?;
        fs::write(folder.with_file_name("README"), "read me")?;
        let tarball = self.home.root().join("codexd-9.9.9-target.tar.gz");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(self.home.root()).arg("-czf").arg(&tarball).arg("codexd-9.9.9-target");
        ensure!(tar.status()?.success(), "tar failed");
        Ok(tarball)
    }

    /// The names in the folder of the binary, in order.
    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.binary.parent().context("a folder")?)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// The folder with nothing but this binary.
    pub fn reset(&self, contents: &[u8]) -> anyhow::Result<()> {
        let folder = self.binary.parent().context("a folder")?;
        fs::remove_dir_all(folder)?;
        fs::create_dir(folder)?;
        fs::write(&self.binary, contents)?;
        fs::set_permissions(&self.binary, fs::Permissions::from_mode(0o755))?;
        self.make_old()
    }
}

/// The SHA-256 of a file, as another program computes it.
pub fn sha256_of(path: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha256sum").arg(path).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("a SHA-256")?.to_owned())
}

/// Writes `PATH.sha256`.
pub fn write_sha256(path: &Path) -> anyhow::Result<PathBuf> {
    let file = path.with_added_extension("sha256");
    let name = path.file_name().context("a name")?.to_string_lossy();
    fs::write(&file, format!("{}  {name}\n", sha256_of(path)?))?;
    Ok(file)
}
