//! The verbs that are connected to the keeper.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use codexd_core::identity::Pid;
use codexd_core::limits::{KEEPER_CLIENTS_MAX, KEEPER_MESSAGE_MAX_BYTES};

use super::wire::{self, Order, Report};

/// A connected verb.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    pid: Option<Pid>,
    unread: Vec<u8>,
    /// So much of it has no end of a line.
    looked_at: usize,
    has_spoken: bool,
}

/// All connected verbs.
#[derive(Debug, Default)]
pub struct Clients {
    clients: Vec<Client>,
}

/// What a verb said.
#[derive(Debug)]
pub enum Said {
    /// An order.
    Order(Box<Order>),
    /// Something that is none.
    Nonsense(String),
}

impl Clients {
    /// What to wait on, in the order that [`Clients::hear`] counts by.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.clients.iter().map(|client| client.stream.as_fd())
    }

    /// The processes of the connected verbs: they may descend from the server and must not be swept with it.
    pub fn pids(&self) -> Vec<Pid> {
        self.clients.iter().filter_map(|client| client.pid).collect()
    }

    /// Whether no verb is connected.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Takes in whoever waits at the door, if it is our user or root; greets with `greeting`.
    ///
    /// # Errors
    /// The system's, but for nobody being there.
    pub fn accept(&mut self, listener: &UnixListener, greeting: &Report) -> io::Result<()> {
        let (stream, _) = match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        let peer = codexd_protocol::unix::peer(&stream)?;
        let me = rustix::process::geteuid().as_raw();
        if peer.uid != me && peer.uid != 0 {
            return Ok(());
        }
        // Those that came first and have said nothing make room.
        if self.clients.len() >= KEEPER_CLIENTS_MAX
            && let Some(silent) = self.clients.iter().position(|client| !client.has_spoken)
        {
            self.clients.remove(silent);
        }
        if self.clients.len() < KEEPER_CLIENTS_MAX {
            // One that has left meanwhile is no failure.
            let _ = self.add(stream, greeting);
        }
        Ok(())
    }

    /// Takes in a stream.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&mut self, stream: UnixStream, greeting: &Report) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let pid = codexd_protocol::unix::peer(&stream)?.pid.map(Pid);
        let mut client = Client { stream, pid, unread: Vec::new(), looked_at: 0, has_spoken: false };
        if client.say(greeting) {
            self.clients.push(client);
        }
        Ok(())
    }

    /// Reads what the `index`th has said; one that has left or says too much is let go.
    pub fn hear(&mut self, index: usize) -> Vec<Said> {
        let Some(client) = self.clients.get_mut(index) else { return Vec::new() };
        let alive = client.read();
        let mut said = Vec::new();
        while let Some(line) = client.next_line() {
            said.push(match serde_json::from_slice(&line) {
                Ok(order) => Said::Order(Box::new(order)),
                Err(error) => Said::Nonsense(error.to_string()),
            });
        }
        if !alive {
            self.clients.remove(index);
        }
        said
    }

    /// Lets everybody go.
    pub fn let_go(&mut self) {
        self.clients.clear();
    }

    /// Tells everybody; one that does not read is let go.
    pub fn tell(&mut self, report: &Report) {
        self.clients.retain_mut(|client| client.say(report));
    }
}

impl Client {
    /// Answers whether the other side is still there.
    fn read(&mut self) -> bool {
        let mut bytes = [0u8; 8192];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            if self.unread.len() > KEEPER_MESSAGE_MAX_BYTES {
                return false;
            }
        }
    }

    /// The next whole line. What was looked through is not looked through again: an environment may be large.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        let Some(end) = self.unread[self.looked_at..].iter().position(|&byte| byte == b'\n') else {
            self.looked_at = self.unread.len();
            return None;
        };
        let line = self.unread.drain(..=self.looked_at + end).collect();
        self.looked_at = 0;
        self.has_spoken = true;
        self.unread.shrink_to_fit();
        Some(line)
    }

    fn say(&mut self, report: &Report) -> bool {
        wire::line(report).is_ok_and(|line| self.stream.write_all(&line).is_ok())
    }
}
