//! The .deb, built by `dpkg-deb`: binary, man pages, completions, changelog, copyright, md5sums.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{Compression, Contents, copy, output, template, write};
use crate::needs;

/// Builds it in `out`.
///
/// # Errors
/// `dpkg-deb`, `gzip` or `md5sum` is missing or fails.
pub fn build(contents: &Contents, out: &Path, compression: Compression) -> anyhow::Result<PathBuf> {
    let scratch = tempfile::Builder::new().prefix("codexd-deb-").tempdir()?;
    let root = scratch.path().join("root");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    write_files(contents, &root)?;
    let package = out.join(format!("codexd_{}-1_{architecture}.deb", contents.version));
    let values = [
        ("VERSION", contents.version.as_str()),
        ("ARCHITECTURE", architecture),
        ("DEPENDS", &contents.linkage.depends()),
        ("INSTALLED_SIZE", &installed_kib(&root)?.to_string()),
    ];
    write(&root.join("DEBIAN/control"), template("debian/control", &values)?.as_bytes(), 0o644)?;
    let mut sums = Command::new("sh");
    sums.args(["-c", "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum"]).current_dir(&root);
    write(&root.join("DEBIAN/md5sums"), &output(&mut sums)?, 0o644)?;
    output(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&root))?;
    let format = match compression {
        Compression::Best => "-Zxz",
        Compression::Fast => "-Zgzip",
    };
    output(
        Command::new("dpkg-deb")
            .args([format, &compression.level().replace('-', "-z"), "--root-owner-group", "--build"])
            .args([&root, &package])
            .env("SOURCE_DATE_EPOCH", contents.epoch.to_string()),
    )?;
    Ok(package)
}

fn write_files(contents: &Contents, root: &Path) -> anyhow::Result<()> {
    copy(&contents.codexd, &root.join("usr/bin/codexd"), 0o755)?;
    contents.write_completions(&root.join("usr/share"), "vendor-completions")?;
    for page in &contents.man_pages {
        let name = page.file_name().context("a man page has a name")?;
        write_gzipped(&root.join("usr/share/man/man1").join(name), &fs::read(page)?)?;
    }
    let doc = root.join("usr/share/doc/codexd");
    write(&doc.join("copyright"), template("debian/copyright", &[])?.as_bytes(), 0o644)?;
    write_gzipped(&doc.join("changelog"), &fs::read(needs::workspace().join("CHANGELOG.md"))?)?;
    let date = jiff::Timestamp::from_second(i64::try_from(contents.epoch)?)?;
    let date = date.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
    let changelog = template("debian/changelog", &[("VERSION", contents.version.as_str()), ("DATE", &date)])?;
    write_gzipped(&doc.join("changelog.Debian"), changelog.as_bytes())
}

/// Writes `path.gz`, the same bytes in each build.
fn write_gzipped(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    write(path, text, 0o644)?;
    output(Command::new("gzip").args(["--no-name", "--best", "--force"]).arg(path))?;
    Ok(())
}

/// What the files take on a disk, in KiB: each rounded up, as dpkg-gencontrol counts.
fn installed_kib(root: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let found = entry.metadata()?;
        sum += if found.is_dir() { 1 + installed_kib(&entry.path())? } else { found.len().div_ceil(1 << 10) };
    }
    Ok(sum)
}
