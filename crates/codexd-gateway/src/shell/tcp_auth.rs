//! The token of the network door: a file for its owner alone.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::rand::{GetRandomFlags, getrandom};

/// 256 bits take 43 characters of base64url and 64 of hex.
const CHARACTERS_MIN: usize = 43;
const FILE_BYTES_MAX: u64 = 4096;

/// What a client has to show.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Token").finish_non_exhaustive()
    }
}

impl Token {
    /// Reads the token, or makes one if there is no file.
    ///
    /// # Errors
    /// The system's; `PermissionDenied` if anybody but its owner may read or write the file, or the owner is another user;
    /// `InvalidData` if what it holds is no token of 256 bits.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        match Self::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                Self::read(path)
            }
            outcome => outcome,
        }
    }

    /// Whether somebody showed it. How long it takes tells no more than whether the length is right.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        let token = self.0.as_bytes();
        let difference =
            token.iter().zip(shown).fold(0, |all, (ours, theirs)| black_box(all | (ours ^ theirs)));
        token.len() == shown.len() && difference == 0
    }

    fn read(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let look = file.metadata()?;
        let owners = [rustix::process::geteuid().as_raw(), 0];
        let error = |kind, why: &str| Err(io::Error::new(kind, format!("{}: {why}", path.display())));
        if !look.is_file() || !owners.contains(&look.uid()) {
            return error(
                io::ErrorKind::PermissionDenied,
                "the token must be a regular file that the user of the gateway or root owns",
            );
        }
        if look.mode() & 0o077 != 0 {
            return error(
                io::ErrorKind::PermissionDenied,
                "other users can access the token: run `chmod 600` on the file, or remove it",
            );
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        let text = text.trim();
        let of_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=');
        if text.len() < CHARACTERS_MIN || !text.bytes().all(of_base64url) {
            return error(
                io::ErrorKind::InvalidData,
                "the file contains no token of at least 256 bits in hex or base64url",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Makes the file whole or not at all; one that somebody else made meanwhile stays.
fn create(path: &Path) -> io::Result<()> {
    let mut random = [0; 32];
    let mut filled = 0;
    while filled < random.len() {
        filled += getrandom(&mut random[filled..], GetRandomFlags::empty())?;
    }
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = Path::new(&draft);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft).and_then(|mut file| {
            writeln!(file, "{token}")?;
            file.sync_all()?;
            match fs::hard_link(draft, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        });
    // Ours, or left by a process of the same number that is gone.
    let removed = fs::remove_file(draft);
    written.and(removed)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::Token;
    use std::fs::{self, Permissions};
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let token = Token::of(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        let text = fs::read_to_string(&path).expect("readable");
        assert_eq!(text.trim().len(), 64);
        assert!(token.is(text.trim().as_bytes()));
        assert!(Token::of(&path).expect("read").is(text.trim().as_bytes()));
        for other in ["", &text[..63], &text, &text.replace(['0', '1', '2', '3'], "f")] {
            assert!(!token.is(other.as_bytes()));
        }
    }

    #[test]
    fn what_others_may_read_or_is_too_short_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let refused = |text: &str, mode| {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
            Token::of(&path).err().map(|error| error.kind())
        };
        let good = "x".repeat(43);
        assert_eq!(refused(&good, 0o640), Some(ErrorKind::PermissionDenied));
        assert_eq!(refused(&good, 0o602), Some(ErrorKind::PermissionDenied));
        assert_eq!(refused(&good, 0o400), None);
        fs::remove_file(&path).expect("removed");
        assert_eq!(refused("secret", 0o600), Some(ErrorKind::InvalidData));
        assert_eq!(refused("", 0o600), Some(ErrorKind::InvalidData));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(Token::of(&link).is_err());
    }
}
