//! The signals of the process, as a queue.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::model::Signal;

/// Takes over SIGTERM, SIGINT and SIGHUP. SIGPIPE is ignored by every Rust program; the rest keeps its default.
///
/// # Errors
/// A handler cannot be installed.
pub(crate) fn process_signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(8);
    let kinds = [
        (SignalKind::terminate(), Signal::Terminate),
        (SignalKind::interrupt(), Signal::Interrupt),
        (SignalKind::hangup(), Signal::HangUp),
    ];
    for (kind, told) in kinds {
        let mut stream = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(told).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}
