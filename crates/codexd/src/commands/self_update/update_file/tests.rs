use std::fs::{self, File};
use std::path::{Path, PathBuf};

use codexd_core::contract::{ErrorCode, Failure};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Copied, copy_binary, sha256_of};

const BINARY: &[u8] = b"\x7fELF and more";

/// A gzipped tarball with these files.
fn tarball(files: &[(&str, &[u8])]) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, contents) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, *contents)?;
    }
    Ok(archive.into_inner()?.finish()?)
}

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> anyhow::Result<Fixture> {
        Ok(Fixture { folder: tempfile::tempdir()? })
    }

    fn file(&self, contents: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join("codexd.tar.gz");
        fs::write(&path, contents)?;
        Ok(path)
    }

    fn copy(&self, from: &Path) -> Result<Copied, Failure> {
        copy_binary(from, &mut File::create(self.target()).expect("a file"))
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("copy")
    }
}

#[test]
fn a_binary_and_the_binary_of_a_tarball_are_copied() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let packed = tarball(&[
        ("./", b""),
        ("./codexd-1/README", b"x"),
        ("./codexd-1/bin/codexd", BINARY),
        ("codexd-1/z", b"z"),
    ]);
    for contents in [BINARY.to_vec(), tarball(&[("codexd-1/bin/codexd", BINARY)])?, packed?] {
        let copied = fixture.copy(&fixture.file(&contents)?)?;
        assert_eq!(fs::read(fixture.target())?, BINARY);
        assert_eq!(copied.sha256, sha256_of(&fixture.target())?);
        assert_eq!(copied.checksum_file, None);
    }
    Ok(())
}

#[test]
fn a_file_without_a_binary_is_refused_with_the_reason() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let whole = tarball(&[("codexd-1/bin/codexd", BINARY), ("codexd-1/z", &[7; 4_096])])?;
    for (contents, reason) in [
        (b"".to_vec(), "neither an ELF program nor a gzipped tarball"),
        (b"#!/bin/sh\n".to_vec(), "neither an ELF program nor a gzipped tarball"),
        (tarball(&[("codexd-1/README", b"x")])?, "a tarball without bin/codexd"),
        (tarball(&[("a/bin/codexd", BINARY), ("b/bin/codexd", BINARY)])?, "not exactly one file"),
        (whole[..whole.len() - 4].to_vec(), "failed to unpack it"),
        (whole[..whole.len() / 2].to_vec(), "failed to unpack it"),
    ] {
        let Err(failure) = fixture.copy(&fixture.file(&contents)?) else {
            anyhow::bail!("{reason}: accepted")
        };
        assert_eq!(failure.code, ErrorCode::UpdateFileInvalid);
        assert!(failure.message.contains(reason), "{}", failure.message);
    }
    let folder = fixture.copy(fixture.folder.path()).map(drop).expect_err("a folder is refused");
    assert!(folder.message.contains("not a file"), "{}", folder.message);
    Ok(())
}

#[test]
fn a_link_under_the_name_of_the_binary_is_refused() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "codexd-1/bin/codexd", "/bin/true")?;
    let contents = archive.into_inner()?.finish()?;
    let failure = fixture.copy(&fixture.file(&contents)?).map(drop).expect_err("a link is refused");
    assert_eq!(failure.code, ErrorCode::UpdateFileInvalid);
    Ok(())
}

#[test]
fn a_sha256_beside_the_file_is_checked() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let from = fixture.file(&tarball(&[("codexd-1/bin/codexd", BINARY)])?)?;
    let beside = fixture.folder.path().join("codexd.tar.gz.sha256");
    let right = sha256_of(&from)?;
    for text in [format!("{right}  codexd.tar.gz\n"), right.to_uppercase()] {
        fs::write(&beside, text)?;
        assert_eq!(fixture.copy(&from)?.checksum_file.as_deref(), Some(beside.as_path()));
    }
    for text in
        [right.replace(|digit: char| digit.is_ascii_hexdigit(), "0"), right[1..].to_owned(), String::new()]
    {
        fs::write(&beside, text)?;
        let failure = fixture.copy(&from).map(drop).expect_err("a wrong checksum is refused");
        assert_eq!(failure.code, ErrorCode::UpdateFileAltered);
    }
    Ok(())
}
