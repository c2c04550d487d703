//! Which service manager runs the supervisor of a home: `backend.json`. Without that file a command starts the supervisor itself.

use std::io;

use codexd_core::contract::Backend;
use serde::{Deserialize, Serialize};

use crate::atomic::{self, Durability};
use crate::home::Home;

#[derive(Deserialize, Serialize)]
struct Record {
    backend: Backend,
}

/// The backend of a home. A file that cannot be read, or names a backend that this version does not know, counts as none.
pub fn read(home: &Home) -> Backend {
    let bytes = atomic::read(&home.backend()).ok().flatten();
    let record = bytes.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    record.map_or(Backend::Pid, |record| record.backend)
}

/// Records the backend of a home.
///
/// # Errors
/// The file system's.
pub fn write(home: &Home, backend: Backend) -> io::Result<()> {
    match backend {
        Backend::Pid => atomic::remove_if_exists(&home.backend()),
        backend => {
            home.create_state()?;
            atomic::replace(&home.backend(), &serde_json::to_vec(&Record { backend })?, Durability::Power)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{read, write};
    use crate::home::Home;
    use codexd_core::contract::Backend;

    #[test]
    fn a_home_without_a_record_or_with_an_unknown_one_has_no_service_manager() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        assert_eq!(read(&home), Backend::Pid);
        write(&home, Backend::Systemd).expect("written");
        assert_eq!(read(&home), Backend::Systemd);
        std::fs::write(home.backend(), r#"{"backend":"launchd"}"#).expect("written");
        assert_eq!(read(&home), Backend::Pid);
        write(&home, Backend::Pid).expect("removed");
        assert!(!home.backend().exists());
    }
}
