//! Accepts clients on the control socket: processes of this user and of root, after a WebSocket handshake.

use std::rc::Rc;
use std::time::Duration;

use codexd_protocol::websocket::handshake::{self, Asked};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::serve_client;
use super::shell_context::ShellContext;
use super::stream::Stream;
use crate::limits::{ACCEPT_PAUSE_MS, HANDSHAKE_TIMEOUT_MS, HTTP_HEAD_BYTES_MAX};

/// Whether processes of a user are accepted.
pub(super) type IsAllowedUser = fn(uid: u32) -> bool;

/// This user and root.
pub(super) fn is_allowed_user(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Accepts clients until the task is aborted.
pub(super) async fn run(shell: Rc<ShellContext>, listener: UnixListener, is_allowed_user: IsAllowedUser) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| is_allowed_user(peer.uid())) => {
                let uninitialized = &shell.uninitialized;
                if uninitialized.is_reserved(&stream) && !uninitialized.evict_oldest() {
                    // Every client has sent `initialize`: the descriptors that are left are reserved for these clients.
                    drop(stream);
                    sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
                let serial = uninitialized.add();
                let task = tokio::task::spawn_local(admit_peer(Rc::clone(&shell), stream, serial));
                uninitialized.set_handshaking(serial, task.abort_handle());
            }
            Ok(_) => {}
            // Most likely no descriptor is free.
            Err(_) => sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await,
        }
    }
}

async fn admit_peer(shell: Rc<ShellContext>, stream: UnixStream, serial: u64) {
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let admitted = match Stream::unix(stream) {
        Ok(stream) => {
            let read = Box::pin(timeout(limit, handshake(&stream))).await;
            read.ok().flatten().map(|read| (stream, read))
        }
        Err(_) => None,
    };
    match admitted {
        Some((stream, read)) => serve_client::serve(shell, stream, read, None, Some(serial)).await,
        None => shell.uninitialized.remove(serial),
    }
}

/// Returns the bytes that followed the request. Any path and any `Origin` are accepted. A request for anything but a WebSocket
/// gets no response, as upstream does it.
async fn handshake(stream: &Stream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        match handshake::parse_request(&head) {
            Asked::Incomplete if head.len() < HTTP_HEAD_BYTES_MAX => {
                stream.read_more(&mut head).await.ok()?;
            }
            Asked::Incomplete | Asked::Garbage => return None,
            Asked::Request(length, request) => {
                stream.write_all(&handshake::switch(&request)?).await.ok()?;
                let rest = head.split_off(length);
                return Some(rest);
            }
        }
    }
}
