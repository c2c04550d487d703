//! Telling systemd how the service stands: sd_notify(3).

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The way to the service manager; without one every call does nothing.
#[derive(Debug, Default)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog_ms: Option<u64>,
}

impl Notifier {
    /// The way that the environment names.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog_ms = number("WATCHDOG_USEC").filter(|_| is_ours).map(|us| us / 1_000);
        Self {
            to: variable("NOTIFY_SOCKET").and_then(|socket| open(&socket)),
            watchdog_ms: watchdog_ms.filter(|&ms| ms > 0),
        }
    }

    /// The time within which the service manager expects a sign of life, in milliseconds.
    pub fn watchdog_ms(&self) -> Option<u64> {
        self.watchdog_ms
    }

    /// Sends assignments such as `READY=1`, one a line. The service manager may be gone: then nothing reads them.
    pub fn send(&self, assignments: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(assignments.as_bytes(), address);
        }
    }
}

/// A path, or, behind an `@`, a name in the abstract namespace.
fn open(socket: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
        [b'/', ..] => SocketAddr::from_pathname(socket).ok()?,
        _ => return None,
    };
    let datagram = UnixDatagram::unbound().ok()?;
    datagram.set_nonblocking(true).ok()?;
    Some((datagram, address))
}

/// Text as the value of `STATUS=`, which ends with its line.
pub fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Notifier, one_line, open};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    fn received(at: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = at.recv(&mut bytes).expect("something came");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_reached() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let name = format!("codexd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_path = UnixDatagram::bind(&path).expect("bound");
        let by_name = UnixDatagram::bind_addr(&address).expect("bound");
        for (listener, socket) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            let notifier = Notifier { to: open(&socket), watchdog_ms: None };
            notifier.send("READY=1");
            assert_eq!(received(&listener), "READY=1");
        }
    }

    #[test]
    fn without_a_service_manager_nothing_is_sent() {
        Notifier::default().send("READY=1");
        assert!(open("relative".as_ref()).is_none());
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\nREADY=1\tb"), "a READY=1 b");
    }
}
