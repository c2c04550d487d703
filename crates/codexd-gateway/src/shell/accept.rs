//! The control socket's door: our own user and root come in, with a WebSocket handshake.

use std::rc::Rc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::clients;
use super::driver::Driver;
use super::stream::Stream;
use crate::limits::{DEAF_MS, HANDSHAKE_TIMEOUT_MS, HTTP_HEAD_BYTES_MAX};
use codexd_protocol::websocket::handshake::{self, Asked};

/// Whether a user may come in.
pub(super) type MayEnter = fn(uid: u32) -> bool;

/// Our own user, or root.
pub(super) fn may_enter(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Lets clients in for as long as it is polled.
pub(super) async fn run(driver: Rc<Driver>, listener: UnixListener, may_enter: MayEnter) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| may_enter(peer.uid())) => {
                let unintroduced = &driver.unintroduced;
                if unintroduced.is_reserved(&stream) && !unintroduced.evict_oldest() {
                    // Every client has introduced itself: one more would be served at their cost.
                    drop(stream);
                    tokio::time::sleep(Duration::from_millis(DEAF_MS)).await;
                    continue;
                }
                let serial = unintroduced.add();
                let task = tokio::task::spawn_local(enter(Rc::clone(&driver), stream, serial));
                unintroduced.shakes_hands(serial, task.abort_handle());
            }
            Ok(_) => {}
            // Out of descriptors, most likely: others have to leave first.
            Err(_) => tokio::time::sleep(Duration::from_millis(DEAF_MS)).await,
        }
    }
}

async fn enter(driver: Rc<Driver>, stream: UnixStream, serial: u64) {
    let patience = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let read = match Stream::unix(stream) {
        Ok(stream) => {
            let shaken = Box::pin(timeout(patience, shake_hands(&stream))).await;
            shaken.ok().flatten().map(|read| (stream, read))
        }
        Err(_) => None,
    };
    match read {
        Some((stream, read)) => clients::serve(driver, stream, read, None, Some(serial)).await,
        None => driver.unintroduced.remove(serial),
    }
}

/// Any path and any `Origin` will do. Whoever asks for something else than a WebSocket gets no answer, as upstream does it.
async fn shake_hands(stream: &Stream) -> Option<Vec<u8>> {
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
