//! Finds the process that listens on the socket of each app-server, and restores sockets that were removed.

use std::io::ErrorKind;

use codexd_core::clock::Monotonic;
use codexd_core::contract::EventLevel;
use codexd_core::generations::Name;
use codexd_core::identity::Pid;
use codexd_core::launch_spec::DrainSignal;
use codexd_core::limits::{LISTENER_FIRST_WAIT_MS, LISTENER_LAST_WAIT_MS};

use super::Supervisor;
use super::server::Server;
use super::server_socket::ServerSocket;
use super::wire::Report;
use super::wrapper::Wrapper;
use crate::events::Event as LogEvent;
use crate::{clock, orphans, process};

/// When to connect to the sockets of app-servers that do not listen yet.
#[derive(Debug)]
pub(super) struct ListenerSearch {
    due: Option<Monotonic>,
    wait_ms: u64,
}

impl Default for ListenerSearch {
    fn default() -> Self {
        Self { due: None, wait_ms: LISTENER_FIRST_WAIT_MS }
    }
}

impl ListenerSearch {
    /// Checks at once, then after growing pauses.
    pub(super) fn begin(&mut self, now: Monotonic) {
        *self = Self { due: Some(now), wait_ms: LISTENER_FIRST_WAIT_MS };
    }

    pub(super) fn deadline(&self) -> Option<Monotonic> {
        self.due
    }

    pub(super) fn is_due(&self, now: Monotonic) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    fn checked(&mut self, is_complete: bool, now: Monotonic) {
        if is_complete {
            *self = Self::default();
        } else if self.wait_ms <= LISTENER_LAST_WAIT_MS {
            self.due = Some(now + self.wait_ms);
            self.wait_ms *= 2;
        } else {
            self.due = None;
        }
    }
}

impl Server {
    /// Whether a process that listens at the app-server's path is the app-server itself, or was started by its wrapper.
    fn is_served_by(&self, listener: Pid) -> bool {
        process::descends_from(listener, self.process.pid)
            || self.generation.as_deref().is_some_and(|id| orphans::is_of_generation(listener, id))
    }

    /// Makes the listening process the app-server. The started process becomes its wrapper. Returns `false` if they are the same.
    fn set_listener(&mut self, listener: Pid) -> bool {
        if listener == self.process.pid {
            return false;
        }
        let Ok(found) = process::identify(listener) else { return false };
        let Ok(handle) = process::open(&found) else { return false };
        let previous = std::mem::replace(&mut self.process, found);
        let handle = std::mem::replace(&mut self.handle, handle);
        self.wrapper = Some(Wrapper::new(previous, handle, self.child.take()));
        true
    }
}

impl Supervisor {
    /// Finds the listener of each app-server, and restores paths that were removed.
    pub(super) fn check_sockets(&mut self) {
        let names: Vec<Name> = self.table.iter().map(|managed| managed.name).collect();
        let mut is_complete = true;
        for name in names.into_iter().filter(|&name| name != Name::Gateway) {
            is_complete &= self.check_socket(name);
        }
        self.listeners.checked(is_complete, clock::monotonic());
    }

    /// Returns whether nothing is left to find.
    fn check_socket(&mut self, name: Name) -> bool {
        let control = self.home.control_socket();
        let Some(server) = self.managed(name).and_then(|managed| managed.server.as_ref()) else {
            return true;
        };
        let path = server.program.socket.clone().unwrap_or(control);
        if let Some(socket) = &server.socket {
            if !socket.is_at_path() {
                self.restore_socket(name);
            }
            return true;
        }
        let spare = self.home.spare_of(&path);
        if !path.is_symlink() && !path.exists() && !spare.exists() {
            return true;
        }
        let Ok((socket, listener)) = ServerSocket::find(&path, &spare) else { return false };
        if !server.is_served_by(listener) {
            return false;
        }
        let lost = !socket.is_at_path();
        if let Some(folder) = socket.other_folder() {
            // Without the watch, a removal is noticed when the next command connects.
            let _ = self.watches.watch_losses(&folder);
        }
        let Some(server) = self.managed_mut(name).and_then(|managed| managed.server.as_mut()) else {
            return true;
        };
        server.socket = Some(socket);
        if server.set_listener(listener) {
            self.listener_found(name);
        }
        if lost {
            self.restore_socket(name);
        }
        true
    }

    /// Records and reports the listening process, which differs from the started one.
    fn listener_found(&mut self, name: Name) {
        if name == self.machine.current() {
            self.record(name);
        }
        let phase = self.phase();
        let _ = self.write_state(phase);
        self.publish_changes();
    }

    fn restore_socket(&mut self, name: Name) {
        if self.has_left || !self.home.root().is_dir() {
            return;
        }
        // The folder may have been removed with the file.
        let _ = self.home.create_state();
        let _ = self.watches.watch_folders(&self.home);
        if let Some(control_listener) = &self.control_listener {
            control_listener.restore_path();
        }
        // An app-server that exits removes its socket itself.
        if self.is_leaving(name) {
            return;
        }
        let Some(server) = self.managed_mut(name).and_then(|managed| managed.server.as_mut()) else { return };
        let (pid, generation) = (server.process.pid, server.generation.clone());
        let Some(socket) = server.socket.as_mut() else { return };
        let path = socket.path().display().to_string();
        let event = match socket.restore() {
            Ok(()) => {
                let message = format!(
                    "the socket of app-server {pid} was removed, for example by a program that cleans /tmp; restored {path}"
                );
                LogEvent::new(EventLevel::Warn, "server.socket.restored", message)
            }
            // A successor listens at the path, or the app-server has closed its socket itself.
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::ConnectionRefused) => {
                return;
            }
            Err(error) => {
                let message = format!(
                    "the socket of app-server {pid} was removed and {path} cannot be restored: {error}; \
                     `codexd restart` replaces the app-server"
                );
                LogEvent::new(EventLevel::Error, "server.socket.lost", message)
            }
        };
        self.log_event(event.with("pid", pid.0).with("generation", generation));
        self.clients.broadcast(&Report::SocketFolderChanged);
    }

    /// The gateway listens on another socket than the one that systemd has bound at the well-known place: no new client reaches it. The
    /// next one gets that socket.
    pub(super) fn replace_unreachable_gateway(&mut self) {
        let is_leaving = self.is_leaving(Name::Gateway);
        let Some(gateway) = self.server(Name::Gateway) else { return };
        if is_leaving || self.unreachable_gateway != Some(gateway.process.pid) {
            return;
        }
        gateway.drain(DrainSignal::Terminate);
        let message = "the gateway listened on a socket that systemd has replaced; the gateway is restarted";
        self.log_event(
            LogEvent::new(EventLevel::Warn, "gateway.unreachable", message)
                .with("pid", gateway.process.pid.0),
        );
    }

    /// Whether the app-server is another process than the one that was started and has exited. Its listener may not be known yet.
    pub(super) fn outlives_its_wrapper(&mut self, name: Name) -> bool {
        let pid = |supervisor: &Self| {
            supervisor.server(name).filter(|server| server.socket.is_none()).map(|server| server.process.pid)
        };
        let Some(started) = pid(self) else { return false };
        self.check_socket(name);
        let lives = |server: &Server| server.process.pid != started && process::is_alive(&server.process);
        let outlives = self.server(name).is_some_and(lives);
        if outlives {
            self.wrapper_ended(name);
        }
        outlives
    }

    /// Handles the exit of a wrapper. If the app-server keeps running, this supervisor is its parent from here on.
    pub(super) fn wrapper_ended(&mut self, name: Name) {
        let Some(server) = self.managed_mut(name).and_then(|managed| managed.server.as_mut()) else { return };
        let Some(wrapper) = server.wrapper.take() else { return };
        if !process::is_alive(&server.process) {
            // Both have exited: the exit is reported with the exit code of the wrapper.
            server.wrapper = Some(wrapper);
            return self.ended(name);
        }
        let (pid, server_pid) = (wrapper.process.pid, server.process.pid);
        let _ = wrapper.reap();
        let message =
            format!("the wrapper {pid} of app-server {server_pid} exited; the app-server keeps running");
        self.log_event(LogEvent::new(EventLevel::Info, "child.wrapper.exited", message).with("pid", pid.0));
    }
}
