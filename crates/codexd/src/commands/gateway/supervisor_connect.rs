//! Waiting for a supervisor: the socket on which it takes orders appears in the state folder.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use codexd_host::Home;
use codexd_host::service::supervisor;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

/// The wait between two looks at a socket that is being made: doubled from the first to the last.
const FIRST_POLL: Duration = Duration::from_millis(1);
const LAST_POLL: Duration = Duration::from_millis(50);
/// So long after something has changed it is looked at.
const POLL_FOR: Duration = Duration::from_secs(2);
/// How soon to look again where nothing tells of changes: while the state folder is gone.
const POLL_INTERVAL_WITHOUT_INOTIFY: Duration = Duration::from_secs(1);

/// Connects to the supervisor of a home, as soon as there is one.
pub async fn to_supervisor(home: &Home) -> UnixStream {
    loop {
        // Watched first, looked at second: nothing comes in between.
        let watch = watch(home).ok();
        if let Some(stream) = poll_for_a_while(home).await {
            // The last close of it takes some ms in the kernel.
            tokio::task::spawn_blocking(move || drop(watch.map(AsyncFd::into_inner)));
            return stream;
        }
        match &watch {
            Some(watch) => drop(watch.readable().await.map(|_| drain(watch))),
            None => sleep(POLL_INTERVAL_WITHOUT_INOTIFY).await,
        }
    }
}

async fn poll_for_a_while(home: &Home) -> Option<UnixStream> {
    let until = Instant::now() + POLL_FOR;
    let mut pause = FIRST_POLL;
    loop {
        match look(home.clone()).await {
            Seen::Supervisor(stream) => return Some(stream),
            // Nothing there is nothing in the making.
            Seen::Nothing => return None,
            Seen::Socket if Instant::now() >= until => return None,
            Seen::Socket => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_POLL);
    }
}

/// What is in the state folder.
enum Seen {
    Supervisor(UnixStream),
    /// A socket on which no supervisor takes connections, or not yet.
    Socket,
    Nothing,
}

/// Looks on a thread of its own: a supervisor with a full queue, or a slow disk, holds up whoever looks.
async fn look(home: Home) -> Seen {
    let looked = tokio::task::spawn_blocking(move || match supervisor::connect(&home) {
        Ok(stream) => Seen::Supervisor(stream),
        Err(_) if home.supervisor_socket().exists() => Seen::Socket,
        Err(_) => Seen::Nothing,
    });
    looked.await.unwrap_or(Seen::Nothing)
}

fn watch(home: &Home) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let changes = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::MOVE_SELF;
    inotify::add_watch(&inotify, home.state_dir(), changes)?;
    // What is unsound with other types is not with this one: it gives out one and the same descriptor while it lives.
    #[allow(deprecated)]
    AsyncFd::new(inotify)
}

fn drain(watch: &AsyncFd<OwnedFd>) {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut reader = inotify::Reader::new(watch.get_ref(), &mut buffer);
    while reader.next().is_ok() {}
}
