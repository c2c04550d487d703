//! Digests of files, computed while they are read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256, Sha512};

use crate::limits::CHUNK_BYTES;

/// The digest that a package must have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Expected {
    /// SHA-512 in base64, of npm.
    Sha512(String),
    /// SHA-256 in hexadecimal, of the official releases.
    Sha256(String),
}

/// The SHA-512 of a file, as npm writes it behind `sha512-`.
///
/// # Errors
/// The file cannot be read.
pub fn sha512_base64(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<String> {
    hash_file::<Sha512>(path, progress).map(|digest| BASE64.encode(&digest))
}

/// The SHA-256 of a file in hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_hex(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<String> {
    hash_file::<Sha256>(path, progress).map(|digest| HEXLOWER.encode(&digest))
}

/// The SHA-256 of bytes in hexadecimal.
pub fn sha256_of_bytes(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

fn hash_file<D: Digest>(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<Vec<u8>> {
    let (mut file, mut hash) = (File::open(path)?, D::new());
    let (mut chunk, mut done) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let count = match file.read(&mut chunk) {
            Ok(0) => return Ok(hash.finalize().to_vec()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&chunk[..count]);
        done += count as u64;
        progress(done);
    }
}

/// The SHA-512 of a subresource-integrity text, which may list several digests.
pub fn sha512_of_integrity(integrity: &str) -> Option<&str> {
    let is_digest = |text: &&str| BASE64.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == 64);
    let mut digests = integrity.split_whitespace().filter_map(|digest| digest.strip_prefix("sha512-"));
    digests.find(is_digest)
}

#[cfg(test)]
mod tests {
    use super::{sha512_base64, sha512_of_integrity};

    #[test]
    fn the_digest_of_a_file_is_that_of_npm() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        std::fs::write(&path, "abc").expect("written");
        let mut seen = 0;
        let digest = sha512_base64(&path, &mut |done| seen = done).expect("read");
        // The example of FIPS 180-4.
        assert_eq!(
            digest,
            "3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw=="
        );
        assert_eq!(seen, 3);
        assert_eq!(sha512_of_integrity(&format!("sha1-x sha512-{digest}")), Some(digest.as_str()));
        assert_eq!(sha512_of_integrity("sha512-short"), None);
    }
}
