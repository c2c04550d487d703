//! Probes an app-server until it answers `initialize`.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::close_code;
use super::shell_context::ShellContext;
use super::upstream_handshake::{self, Answer};
use crate::hub::{Event, ServerId};
use crate::limits::{
    CLOSE_TIMEOUT_MS, INITIALIZE_TIMEOUT_MS, PROBE_FIRST_WAIT_MS, PROBE_LAST_WAIT_MS, PROBE_YOUNG_MS,
    PROBE_YOUNG_WAIT_MS,
};

/// Returns when the app-server has answered or has no socket any more. The task is aborted when the app-server exits.
pub(super) async fn run(shell: Rc<ShellContext>, server: ServerId) {
    let limit = Duration::from_millis(INITIALIZE_TIMEOUT_MS);
    let began = Instant::now();
    let mut wait = PROBE_FIRST_WAIT_MS;
    loop {
        let socket = shell.servers.borrow().socket(server);
        let Some(socket) = socket else { return };
        // Registered before the attempt, so that no change is missed.
        let changed = shell.sockets_changed.notified();
        let probe = upstream_handshake::readiness_probe();
        let opened = Box::pin(timeout(limit, upstream_handshake::open(&shell, &socket, probe))).await;
        if let Ok(Ok((connection, Answer::Result(result), _))) = opened {
            connection.close(close_code::NORMAL, "");
            shell.feed(Event::ProbeAnswered(server, result));
            let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), connection.flushed()).await;
            return;
        }
        tokio::select! {
            () = changed => wait = PROBE_FIRST_WAIT_MS,
            () = sleep(Duration::from_millis(wait)) => {
                // An app-server that was just started answers soon, and clients are waiting for it.
                let is_young = began.elapsed() < Duration::from_millis(PROBE_YOUNG_MS);
                let longest = if is_young { PROBE_YOUNG_WAIT_MS } else { PROBE_LAST_WAIT_MS };
                wait = (wait * 2).min(longest);
            }
        }
    }
}
