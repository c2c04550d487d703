//! The file that `self-update` takes: a codexd binary, or a gzipped tarball that has one at `NAME/bin/codexd`.
//!
//! One pass reads the file: what was hashed is what was copied.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use codexd_core::contract::{ErrorCode, Failure};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use super::{elf, text_of, unfit};
use crate::limits::{
    CHECKSUM_FILE_BYTES_MAX, UPDATE_BUFFER_BYTES, UPDATE_ENTRIES_MAX, UPDATE_FILE_BYTES_MAX,
    UPDATE_UNPACKED_BYTES_MAX,
};

/// The first bytes of a gzip file.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// The binary in the folder of the tarball.
const BINARY_IN_TARBALL: [&str; 2] = ["bin", "codexd"];

/// What was copied.
pub struct Copied {
    /// Of the binary, in hexadecimal.
    pub sha256: String,
    /// The file that the SHA-256 of the whole file was checked against.
    pub checksum_file: Option<PathBuf>,
}

/// Copies the binary that the file is or holds, and checks the SHA-256 of the file if there is a file with it.
///
/// # Errors
/// `update-file-invalid`, `update-file-altered`; the copy cannot be written.
pub fn copy_binary(from: &Path, copy: &mut File) -> Result<Copied, Failure> {
    let unreadable = |error: io::Error| unfit(from, &error.to_string());
    let found = fs::metadata(from).map_err(unreadable)?;
    if !found.is_file() {
        return Err(unfit(from, "it is not a file"));
    }
    if found.len() > UPDATE_FILE_BYTES_MAX {
        return Err(unfit(from, &format!("it has more than {UPDATE_FILE_BYTES_MAX} bytes")));
    }
    let expected = expected_sha256(from)?;
    let file = File::open(from).map_err(unreadable)?;
    let hashed = Hashed::new(file.take(UPDATE_FILE_BYTES_MAX));
    let mut source = BufReader::with_capacity(UPDATE_BUFFER_BYTES, hashed);
    let mut target = BufWriter::with_capacity(UPDATE_BUFFER_BYTES, Hashed::new(copy));
    let magic = io::BufRead::fill_buf(&mut source).map_err(unreadable)?;
    if magic.starts_with(GZIP_MAGIC) {
        copy_from_tarball(&mut source, &mut target).map_err(|reason| unfit(from, &reason))?;
    } else if magic.starts_with(elf::MAGIC) {
        io::copy(&mut source, &mut target)
            .map_err(|error| unfit(from, &format!("failed to copy it: {error}")))?;
    } else {
        return Err(unfit(from, "it is neither an ELF program nor a gzipped tarball"));
    }
    io::copy(&mut source, &mut io::sink()).map_err(unreadable)?;
    let actual = source.into_inner().finish();
    let checksum_file = expected.map(|(file, expected)| check(from, file, &expected, &actual)).transpose()?;
    let target =
        target.into_inner().map_err(|error| unfit(from, &format!("failed to copy it: {}", error.error())))?;
    Ok(Copied { sha256: target.finish(), checksum_file })
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = Hashed::new(File::open(path)?);
    io::copy(&mut file, &mut io::sink())?;
    Ok(file.finish())
}

/// The file beside it with its SHA-256, as `sha256sum` writes it, and the value.
fn expected_sha256(from: &Path) -> Result<Option<(PathBuf, String)>, Failure> {
    let path = from.with_added_extension("sha256");
    let refused = |reason: String| {
        Failure::new(
            ErrorCode::UpdateFileAltered,
            format!("cannot check {} with {}: {reason}; nothing has changed", from.display(), path.display()),
        )
        .hint("download both files again; without the .sha256 file nothing is checked")
        .with("checksumFile", text_of(&path))
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error.to_string())),
    };
    let mut text = String::new();
    file.take(CHECKSUM_FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| refused(error.to_string()))?;
    let digest = text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    let is_sha256 = digest.len() == 64 && digest.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_sha256 {
        Ok(Some((path, digest)))
    } else {
        Err(refused("it does not begin with a SHA-256".to_owned()))
    }
}

fn check(from: &Path, checksum_file: PathBuf, expected: &str, actual: &str) -> Result<PathBuf, Failure> {
    if expected == actual {
        return Ok(checksum_file);
    }
    let message = format!(
        "{} has the SHA-256 {actual}, but {} names {expected}; nothing has changed",
        from.display(),
        checksum_file.display()
    );
    Err(Failure::new(ErrorCode::UpdateFileAltered, message)
        .hint("download both files again")
        .with("file", text_of(from))
        .with("checksumFile", text_of(&checksum_file))
        .with("expected", expected)
        .with("actual", actual))
}

/// Copies the one entry that is the binary. The others are read, so that a truncated tarball is noticed, and not written anywhere.
fn copy_from_tarball(source: &mut impl Read, target: &mut impl Write) -> Result<(), String> {
    let broken = |error: io::Error| format!("failed to unpack it: {error}");
    let mut archive = tar::Archive::new(GzDecoder::new(source).take(UPDATE_UNPACKED_BYTES_MAX));
    let mut is_found = false;
    for (count, entry) in archive.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if count >= UPDATE_ENTRIES_MAX {
            return Err(format!("it has more than {UPDATE_ENTRIES_MAX} entries"));
        }
        if !is_binary(&entry.path().map_err(broken)?) {
            continue;
        }
        if is_found || !entry.header().entry_type().is_file() {
            return Err("its bin/codexd is not exactly one file".to_owned());
        }
        let size = entry.size();
        if size > UPDATE_FILE_BYTES_MAX {
            return Err(format!("its bin/codexd has more than {UPDATE_FILE_BYTES_MAX} bytes"));
        }
        if io::copy(&mut entry, target).map_err(broken)? != size {
            return Err("it is truncated".to_owned());
        }
        is_found = true;
    }
    // The end of the gzip stream has a checksum.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    if is_found { Ok(()) } else { Err("it is a tarball without bin/codexd".to_owned()) }
}

fn is_binary(path: &Path) -> bool {
    let names: Vec<Component<'_>> = path.components().filter(|part| *part != Component::CurDir).collect();
    matches!(names[..], [Component::Normal(_), Component::Normal(folder), Component::Normal(name)]
        if [folder, name] == BINARY_IN_TARBALL)
}

/// Computes the SHA-256 of everything that is read or written.
struct Hashed<T> {
    inner: T,
    digest: Sha256,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Hashed<T> {
        Hashed { inner, digest: Sha256::new() }
    }

    fn finish(self) -> String {
        self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
