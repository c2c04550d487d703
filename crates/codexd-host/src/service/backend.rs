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
    recorded(home).unwrap_or(Backend::Pid)
}

/// The backend that `bootstrap` has given to a home; `None` if it never has.
pub fn recorded(home: &Home) -> Option<Backend> {
    let bytes = atomic::read(&home.backend()).ok().flatten()?;
    serde_json::from_slice::<Record>(&bytes).ok().map(|record| record.backend)
}

/// Records the backend of a home, or that it has none.
///
/// # Errors
/// The file system's.
pub fn record(home: &Home, backend: Option<Backend>) -> io::Result<()> {
    let Some(backend) = backend else { return atomic::remove_if_exists(&home.backend()) };
    home.create_state()?;
    atomic::replace(&home.backend(), &serde_json::to_vec(&Record { backend })?, Durability::Power)
}

#[cfg(test)]
mod tests {
    use super::{read, record, recorded};
    use crate::home::Home;
    use codexd_core::contract::Backend;

    #[test]
    fn a_home_without_a_record_or_with_an_unknown_one_has_no_service_manager() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        assert_eq!((read(&home), recorded(&home)), (Backend::Pid, None));
        for backend in [Backend::Systemd, Backend::Pid] {
            record(&home, Some(backend)).expect("written");
            assert_eq!((read(&home), recorded(&home)), (backend, Some(backend)));
        }
        std::fs::write(home.backend(), r#"{"backend":"launchd"}"#).expect("written");
        assert_eq!((read(&home), recorded(&home)), (Backend::Pid, None));
        record(&home, None).expect("removed");
        assert!(!home.backend().exists());
    }
}
