//! The value of `--listen`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listen {
    /// `unix://`: the control socket of the home, `$CODEX_HOME/app-server-control/app-server-control.sock`.
    ControlSocket,
    /// `unix://PATH`: a socket at `PATH`, which may be longer than the kernel's 108 bytes.
    Unix(PathBuf),
}

/// A `--listen` value that this server cannot serve.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unsupported --listen URL `{url}`; expected `unix://` or `unix://PATH`")]
pub struct ListenError {
    url: String,
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(url: &str) -> Result<Self, ListenError> {
        match url.strip_prefix("unix://") {
            Some("") => Ok(Self::ControlSocket),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => Err(ListenError { url: url.to_owned() }),
        }
    }
}

impl Listen {
    /// The path of the socket.
    pub fn socket(&self, codex_home: &Path) -> PathBuf {
        match self {
            Self::ControlSocket => codex_home.join("app-server-control").join("app-server-control.sock"),
            Self::Unix(path) => path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::Listen;

    #[test]
    fn an_empty_unix_url_is_the_control_socket() {
        let listen: Listen = "unix://".parse().expect("valid");
        assert_eq!(
            listen.socket(Path::new("/h")),
            Path::new("/h/app-server-control/app-server-control.sock")
        );
        assert_eq!("unix:///a/b".parse(), Ok(Listen::Unix(PathBuf::from("/a/b"))));
    }

    #[test]
    fn other_urls_are_refused_by_name() {
        for url in ["", "unix:foo", "ws://127.0.0.1:0", "stdio://"] {
            let error = url.parse::<Listen>().expect_err("unsupported").to_string();
            assert!(error.starts_with(&format!("unsupported --listen URL `{url}`; expected")), "{error}");
        }
    }
}
