//! Opening files, and nothing but files: to open a FIFO in their place would wait for the other end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a regular file as `options` say.
///
/// # Errors
/// The file system's; `InvalidInput` if the path leads to something else than a regular file.
pub(crate) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let not_a_file =
        || io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a regular file", path.display()));
    // What open(2) answers for a socket, and for a FIFO that nothing reads.
    let not_openable = Errno::NXIO.raw_os_error();
    let opened = options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = opened
        .map_err(|error| if error.raw_os_error() == Some(not_openable) { not_a_file() } else { error })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_a_file()) }
}

/// Reads a regular file as text.
///
/// # Errors
/// As [`open`].
pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(OpenOptions::new().read(true), path)?.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{open, read_to_string};
    use rustix::fs::{CWD, Mode};
    use std::fs::OpenOptions;
    use std::io::ErrorKind;

    #[test]
    fn a_fifo_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        rustix::fs::mkfifoat(CWD, &path, Mode::RWXU).expect("made");
        let writing = open(OpenOptions::new().write(true), &path).expect_err("a FIFO");
        let reading = read_to_string(&path).expect_err("a FIFO");
        assert_eq!((writing.kind(), reading.kind()), (ErrorKind::InvalidInput, ErrorKind::InvalidInput));
    }
}
