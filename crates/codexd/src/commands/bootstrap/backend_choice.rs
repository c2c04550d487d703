//! Which backend a home gets, and why.

use std::path::Path;
use std::time::Duration;

use codexd_core::contract::{Backend, ErrorCode, Failure};
use codexd_core::limits::SYSTEMCTL_TIMEOUT_MS;
use codexd_host::service::systemd::Systemctl;
use codexd_host::users;

use crate::cli::BackendArg;
use crate::own_binary::own_binary;
use crate::service_settings;

/// The backend, and why it was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The backend.
    pub backend: Backend,
    /// A clause that follows "because".
    pub reason: String,
}

impl Choice {
    /// The name of the backend, as in `--backend`.
    pub fn name(&self) -> &'static str {
        match self.backend {
            Backend::Pid => "pid",
            Backend::Systemd => "systemd",
        }
    }
}

/// Chooses the backend.
///
/// # Errors
/// `unsupported-platform` for launchd; `service-manager-failed` if systemd is named and no user manager answers.
pub fn choose(named: BackendArg) -> Result<Choice, Failure> {
    match named {
        BackendArg::Launchd => {
            let message = "cannot install a service of launchd: codexd runs on Linux only";
            Err(Failure::new(ErrorCode::UnsupportedPlatform, message)
                .hint("`codexd service print --backend launchd` prints the agent that would run it on macOS"))
        }
        BackendArg::Pid => Ok(Choice {
            backend: Backend::Pid,
            reason: "--backend names it; nothing starts codexd at boot".into(),
        }),
        BackendArg::Systemd => match missing_manager() {
            None => Ok(Choice { backend: Backend::Systemd, reason: "--backend names it".into() }),
            Some(why) => {
                let message = format!("cannot install services of systemd: {why}");
                Err(Failure::new(ErrorCode::ServiceManagerFailed, message).hint(
                    "log in as this user, or run `loginctl enable-linger`, which starts a user manager; `--backend pid` works without one",
                ))
            }
        },
        BackendArg::Auto => Ok(match missing_manager() {
            None => Choice { backend: Backend::Systemd, reason: "a systemd user manager runs".into() },
            Some(why) => {
                Choice { backend: Backend::Pid, reason: format!("{why}; nothing starts codexd at boot") }
            }
        }),
    }
}

/// Why services of systemd cannot be installed; `None` if they can.
fn missing_manager() -> Option<String> {
    let systemctl = Systemctl::new();
    if !systemctl.is_there() {
        return Some("no systemd user manager runs for this user".into());
    }
    match systemctl.manager_state(Duration::from_millis(SYSTEMCTL_TIMEOUT_MS)) {
        Ok(state) if state == "stopping" || state == "offline" => {
            return Some(format!("the systemd user manager is {state}"));
        }
        Ok(_) => {}
        Err(error) => return Some(format!("the systemd user manager does not answer: {error}")),
    }
    let codexd = own_binary().ok()?;
    (!service_settings::is_lasting(&codexd)).then(|| {
        format!("the binary of codexd is gone from {}, where a service would start it", codexd.display())
    })
}

/// Whether the user manager runs from boot on, and not only while the user is logged in; `None` if that cannot be found out.
pub fn is_lingering() -> Option<bool> {
    let name = users::find(rustix::process::geteuid().as_raw())?.name;
    lingering_of(&name, Path::new("/"))
}

/// logind keeps a file for each user who lingers.
fn lingering_of(user: &str, root: &Path) -> Option<bool> {
    if root.join("var/lib/systemd/linger").join(user).exists() {
        return Some(true);
    }
    root.join("run/systemd/users").is_dir().then_some(false)
}

#[cfg(test)]
mod tests {
    use super::{choose, lingering_of};
    use crate::cli::BackendArg;
    use codexd_core::contract::ErrorCode;
    use std::fs;

    #[test]
    fn launchd_is_not_supported() {
        let failure = choose(BackendArg::Launchd).expect_err("not on Linux");
        assert_eq!(failure.code, ErrorCode::UnsupportedPlatform);
    }

    #[test]
    fn lingering_is_unknown_without_logind() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(lingering_of("u", root.path()), None);
        fs::create_dir_all(root.path().join("run/systemd/users")).expect("made");
        assert_eq!(lingering_of("u", root.path()), Some(false));
        fs::create_dir_all(root.path().join("var/lib/systemd/linger")).expect("made");
        fs::write(root.path().join("var/lib/systemd/linger/u"), "").expect("written");
        assert_eq!(
            (lingering_of("u", root.path()), lingering_of("v", root.path())),
            (Some(true), Some(false))
        );
    }
}
