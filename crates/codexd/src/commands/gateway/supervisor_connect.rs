//! Waits for a supervisor, whose socket appears in the state folder.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use codexd_host::Home;
use codexd_host::service::supervisor;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use crate::limits::{SOCKET_POLL_FIRST, SOCKET_POLL_LAST, SUPERVISOR_POLL_FOR, SUPERVISOR_POLL_INTERVAL};

/// Connects to the supervisor of a home as soon as one listens.
pub async fn to_supervisor(home: &Home) -> UnixStream {
    loop {
        // Watches before the first attempt, so that no change is missed.
        let watch = watch(home).ok();
        if let Some(stream) = poll_for_a_while(home).await {
            // Closing an inotify instance takes the kernel some milliseconds.
            tokio::task::spawn_blocking(move || drop(watch.map(AsyncFd::into_inner)));
            return stream;
        }
        match &watch {
            Some(watch) => drop(watch.readable().await.map(|_| drain(watch))),
            None => sleep(SUPERVISOR_POLL_INTERVAL).await,
        }
    }
}

async fn poll_for_a_while(home: &Home) -> Option<UnixStream> {
    let until = Instant::now() + SUPERVISOR_POLL_FOR;
    let mut pause = SOCKET_POLL_FIRST;
    loop {
        match try_connect(home.clone()).await {
            Attempt::Supervisor(stream) => return Some(stream),
            // Without a socket no supervisor is starting.
            Attempt::Nothing => return None,
            Attempt::Socket if Instant::now() >= until => return None,
            Attempt::Socket => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(SOCKET_POLL_LAST);
    }
}

/// The result of one attempt.
enum Attempt {
    Supervisor(UnixStream),
    /// A socket that does not accept connections, or not yet.
    Socket,
    Nothing,
}

/// Connects on a thread of its own: a supervisor with a full queue, or a slow disk, blocks the call.
async fn try_connect(home: Home) -> Attempt {
    let attempt = tokio::task::spawn_blocking(move || match supervisor::connect(&home) {
        Ok(stream) => Attempt::Supervisor(stream),
        Err(_) if home.supervisor_socket().exists() => Attempt::Socket,
        Err(_) => Attempt::Nothing,
    });
    attempt.await.unwrap_or(Attempt::Nothing)
}

fn watch(home: &Home) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let changes = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::MOVE_SELF;
    inotify::add_watch(&inotify, home.state_dir(), changes)?;
    // The deprecated constructor is unsound for types whose descriptor changes; that of an `OwnedFd` does not.
    #[allow(deprecated)]
    AsyncFd::new(inotify)
}

fn drain(watch: &AsyncFd<OwnedFd>) {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut reader = inotify::Reader::new(watch.get_ref(), &mut buffer);
    while reader.next().is_ok() {}
}
