//! Which user a home and its folders belong to.

use std::io::{self, ErrorKind};

use crate::home::Home;
use crate::ownership::{self, Folder};

/// Checks the owners of a home's folders before anything in them is used. A missing folder is no error. A home that root owns
/// serves every user who may write to it; the folders in it belong to one user.
///
/// # Errors
/// [`ownership::ForeignOwner`]; errors of the file system.
pub fn check_home(home: &Home) -> io::Result<()> {
    ownership::check_root(home.root())?;
    check_state(home)
}

/// As [`check_home`], for a home that may belong to another user: only the folders of codexd are checked.
///
/// # Errors
/// As [`check_home`].
pub fn check_state(home: &Home) -> io::Result<()> {
    for path in [home.state_dir(), home.control_dir()] {
        match Folder::open_own(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            other => drop(other?),
        }
    }
    Ok(())
}
