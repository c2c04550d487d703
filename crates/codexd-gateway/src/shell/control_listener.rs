//! The control socket's door: our own user and root come in, with a WebSocket handshake.

use std::rc::Rc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::clients;
use super::event_loop::HubDriver;
use super::stream::Stream;
use crate::limits::{ACCEPT_PAUSE_MS, HANDSHAKE_TIMEOUT_MS, HTTP_HEAD_BYTES_MAX};
use codexd_protocol::websocket::handshake::{self, Asked};

/// Whether a user may come in.
pub(super) type IsAllowedUser = fn(uid: u32) -> bool;

/// Our own user, or root.
pub(super) fn is_allowed_user(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Lets clients in for as long as it is polled.
pub(super) async fn run(driver: Rc<HubDriver>, listener: UnixListener, is_allowed_user: IsAllowedUser) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| is_allowed_user(peer.uid())) => {
                let uninitialized = &driver.uninitialized;
                if uninitialized.is_reserved(&stream) && !uninitialized.evict_oldest() {
                    // Every client has introduced itself: one more would be served at their cost.
                    drop(stream);
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
                let serial = uninitialized.add();
                let task = tokio::task::spawn_local(admit_peer(Rc::clone(&driver), stream, serial));
                uninitialized.set_handshaking(serial, task.abort_handle());
            }
            Ok(_) => {}
            // Out of descriptors, most likely: others have to leave first.
            Err(_) => tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await,
        }
    }
}

async fn admit_peer(driver: Rc<HubDriver>, stream: UnixStream, serial: u64) {
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let read = match Stream::unix(stream) {
        Ok(stream) => {
            let shaken = Box::pin(timeout(limit, handshake(&stream))).await;
            shaken.ok().flatten().map(|read| (stream, read))
        }
        Err(_) => None,
    };
    match read {
        Some((stream, read)) => clients::serve(driver, stream, read, None, Some(serial)).await,
        None => driver.uninitialized.remove(serial),
    }
}

/// Any path and any `Origin` will do. Whoever asks for something else than a WebSocket gets no answer, as upstream does it.
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
