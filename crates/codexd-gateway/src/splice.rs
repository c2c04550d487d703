//! A stand-in for the gateway proper: each client gets a connection of its own to the current app-server, byte for byte.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::host::{Doors, Generation, HostEvent, HostOrder, Role};

/// The wait between two looks for a server that is coming up: doubled from the first to the last.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);
/// How long to leave the door alone when nobody can be let in for want of descriptors.
const DEAF: Duration = Duration::from_millis(100);

pub(crate) async fn run(
    doors: Doors,
    mut host_events: mpsc::Receiver<HostEvent>,
    _host_orders: mpsc::Sender<HostOrder>,
) -> io::Result<()> {
    doors.control.set_nonblocking(true)?;
    let listener = UnixListener::from_std(doors.control)?;
    let (tell, current) = watch::channel(None);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            event = host_events.recv() => match event {
                Some(HostEvent::Generations(generations)) => {
                    tell.send_replace(current_socket(&generations));
                }
                Some(HostEvent::Leave) | None => return Ok(()),
            },
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if may_enter(&client) => {
                    clients.spawn(serve(client, current.clone()));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(DEAF).await,
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

fn current_socket(generations: &[Generation]) -> Option<PathBuf> {
    let current = generations.iter().find(|generation| generation.role == Role::Current)?;
    Some(current.socket.clone())
}

/// Our own user, or root.
fn may_enter(client: &UnixStream) -> bool {
    let me = rustix::process::geteuid().as_raw();
    client.peer_cred().is_ok_and(|peer| peer.uid() == me || peer.uid() == 0)
}

async fn serve(mut client: UnixStream, current: watch::Receiver<Option<PathBuf>>) -> io::Result<()> {
    let mut server = reach(current).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Connects to the current server, as soon as it listens.
async fn reach(mut current: watch::Receiver<Option<PathBuf>>) -> io::Result<UnixStream> {
    let mut look = FIRST_LOOK;
    loop {
        let socket = current.borrow_and_update().clone();
        if let Some(socket) = socket
            && let Ok(stream) = connect(&socket).await
        {
            return Ok(stream);
        }
        tokio::select! {
            changed = current.changed() => changed.map_err(io::Error::other)?,
            () = tokio::time::sleep(look) => look = (look * 2).min(LAST_LOOK),
        }
    }
}

/// The path may be longer than a socket address.
async fn connect(socket: &std::path::Path) -> io::Result<UnixStream> {
    let address = codexd_protocol::unix::SocketAddress::new(socket)?;
    UnixStream::connect(address.as_path()).await
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::sync::mpsc;

    use crate::host::{self, Doors, Generation, HostEvent, Role};

    #[tokio::test]
    async fn a_client_that_came_before_the_server_is_served_by_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (door, socket) = (folder.path().join("control"), folder.path().join("g1"));
        let control = codexd_protocol::unix::bind(&door).expect("bound");
        let (events, host_events) = mpsc::channel(8);
        let (host_orders, _orders) = mpsc::channel(8);
        let running = tokio::spawn(host::run(Doors { control, tcp: None }, host_events, host_orders));
        let mut client = codexd_protocol::unix::connect(&door).expect("connected");
        let generation = Generation { mark: "m".into(), pid: 1, socket: socket.clone(), role: Role::Current };
        events.send(HostEvent::Generations(vec![generation])).await.expect("it listens");
        let server = tokio::task::spawn_blocking(move || {
            let (mut served, _) = codexd_protocol::unix::bind(&socket)?.accept()?;
            let mut word = [0; 4];
            served.read_exact(&mut word)?;
            served.write_all(&word)
        });
        let answer = tokio::task::spawn_blocking(move || {
            client.write_all(b"ping")?;
            let mut word = String::new();
            client.read_to_string(&mut word).map(|_| word)
        });
        server.await.expect("no panic").expect("served");
        assert_eq!(answer.await.expect("no panic").expect("answered"), "ping");
        events.send(HostEvent::Leave).await.expect("it listens");
        running.await.expect("no panic").expect("it left");
    }
}
