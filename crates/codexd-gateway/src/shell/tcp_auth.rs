//! Authentication over TCP: the bearer token of a client, and the file that holds the token.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use codexd_protocol::websocket::handshake;
use rustix::fs::OFlags;
use rustix::rand::{GetRandomFlags, getrandom};
use tungstenite::handshake::server::Request;
use tungstenite::http::{StatusCode, header};

use crate::limits::TOKEN_FILE_BYTES_MAX;

/// 256 bits take 43 characters of base64url and 64 of hex.
const CHARACTERS_MIN: usize = 43;

/// The token that clients have to send; `None` while the listener is closed.
#[derive(Debug, Default)]
pub(super) struct ExpectedToken(RefCell<Option<Token>>);

impl ExpectedToken {
    pub(super) fn set(&self, token: Option<Token>) {
        self.0.replace(token);
    }

    /// Whether it is the token that the file holds now.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        self.0.borrow().as_ref().is_some_and(|token| Token::of(path).is_ok_and(|now| now == *token))
    }

    /// Checks the bearer token of a request.
    ///
    /// # Errors
    /// The HTTP response that refuses the request, in the words of app-server 0.169.0.
    pub(super) fn authenticate(&self, request: &Request) -> Result<(), Vec<u8>> {
        let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
        });
        let refusal = |body: &str| Err(handshake::answer(StatusCode::UNAUTHORIZED, body));
        match shown {
            None => refusal("missing websocket bearer token"),
            Some(shown) if self.0.borrow().as_ref().is_some_and(|token| token.matches(shown)) => Ok(()),
            Some(_) => refusal("invalid websocket bearer token"),
        }
    }
}

#[derive(Clone, Eq, PartialEq)]
pub(super) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Token").finish_non_exhaustive()
    }
}

impl Token {
    /// Reads the token. Creates the file with a new token if it does not exist.
    ///
    /// # Errors
    /// `PermissionDenied` if the file belongs to another user or other users may access it; `InvalidData` if it holds no
    /// token of 256 bits.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        match Self::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                Self::read(path)
            }
            outcome => outcome,
        }
    }

    /// Compares in a time that depends only on the lengths.
    fn matches(&self, shown: &[u8]) -> bool {
        let token = self.0.as_bytes();
        let difference =
            token.iter().zip(shown).fold(0, |all, (ours, theirs)| black_box(all | (ours ^ theirs)));
        token.len() == shown.len() && difference == 0
    }

    fn read(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let metadata = file.metadata()?;
        let owners = [rustix::process::geteuid().as_raw(), 0];
        let error = |kind, why: &str| Err(io::Error::new(kind, format!("{}: {why}", path.display())));
        if !metadata.is_file() || !owners.contains(&metadata.uid()) {
            return error(
                io::ErrorKind::PermissionDenied,
                "the token must be a regular file that the user of the gateway or root owns",
            );
        }
        if metadata.mode() & 0o077 != 0 {
            let why = "other users can access the token: run `chmod 600` on the file, or remove it";
            return error(io::ErrorKind::PermissionDenied, why);
        }
        let mut text = String::new();
        file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)?;
        let text = text.trim();
        let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=');
        if text.len() < CHARACTERS_MIN || !text.bytes().all(is_base64url) {
            return error(
                io::ErrorKind::InvalidData,
                "the file contains no token of at least 256 bits in hex or base64url",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Creates the complete file or nothing. A file that another process created meanwhile stays.
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
    // Left by this process, or by a dead process with the same pid.
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
    fn a_token_is_created_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let token = Token::of(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        let text = fs::read_to_string(&path).expect("readable");
        assert_eq!(text.trim().len(), 64);
        assert!(token.matches(text.trim().as_bytes()));
        assert!(Token::of(&path).expect("read").matches(text.trim().as_bytes()));
        for other in ["", &text[..63], &text, &text.replace(['0', '1', '2', '3'], "f")] {
            assert!(!token.matches(other.as_bytes()));
        }
    }

    #[test]
    fn a_token_file_that_others_may_read_or_that_is_too_short_is_refused() {
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
