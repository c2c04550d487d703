//! Those who are connected to the keeper: verbs, and the gateway.

use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use codexd_core::identity::Pid;
use codexd_core::limits::{KEEPER_CLIENTS_MAX, KEEPER_MESSAGE_MAX_BYTES};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

use super::wire::{self, Order, Report};

/// One of them, by a number that no later one has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientId(u64);

/// Whoever is connected.
#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    pid: Option<Pid>,
    unread: Vec<u8>,
    /// So much of it has no end of a line.
    looked_at: usize,
    has_spoken: bool,
    /// A descriptor that came along and that nobody has taken yet.
    handed: Option<OwnedFd>,
    /// It is the gateway: whether it moves threads.
    gateway: Option<bool>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Clients {
    clients: Vec<Client>,
    next: u64,
}

/// What somebody said.
#[derive(Debug)]
pub enum Said {
    /// An order.
    Order(Box<Order>),
    /// Something that is none.
    Nonsense(String),
}

/// What was heard of one of them.
#[derive(Debug)]
pub struct Heard {
    /// Of whom.
    pub from: ClientId,
    /// What it said.
    pub said: Vec<Said>,
    /// Whether it has left since.
    pub left: bool,
}

impl Clients {
    /// What to wait on, in the order that [`Clients::hear`] counts by.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.clients.iter().map(|client| client.stream.as_fd())
    }

    /// The processes of those who are connected: they may descend from the server and must not be swept with it.
    pub fn pids(&self) -> Vec<Pid> {
        self.clients.iter().filter_map(|client| client.pid).collect()
    }

    /// Whether no verb is connected.
    pub fn no_verb_is_here(&self) -> bool {
        self.clients.iter().all(|client| client.gateway.is_some())
    }

    /// Whether the gateway is connected and moves threads.
    pub fn gateway_moves(&self) -> bool {
        self.clients.iter().any(|client| client.gateway == Some(true))
    }

    /// This one is the gateway; answers the socket that it has handed over. One that said so before is none any more.
    pub fn is_gateway(&mut self, id: ClientId, moves: bool) -> Option<OwnedFd> {
        for client in self.clients.iter_mut().filter(|client| client.id != id && client.gateway.is_some()) {
            client.cut_off();
        }
        let client = self.clients.iter_mut().find(|client| client.id == id)?;
        client.gateway = Some(moves);
        client.handed.take()
    }

    /// Takes in whoever waits at the door, if it is our user or root; greets with `greeting`.
    ///
    /// # Errors
    /// The system's, but for nobody being there.
    pub fn accept(&mut self, listener: &UnixListener, greeting: &[Report]) -> io::Result<()> {
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
    pub fn add(&mut self, stream: UnixStream, greeting: &[Report]) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let pid = codexd_protocol::unix::peer(&stream)?.pid.map(Pid);
        self.next += 1;
        let mut client = Client {
            id: ClientId(self.next),
            stream,
            pid,
            unread: Vec::new(),
            looked_at: 0,
            has_spoken: false,
            handed: None,
            gateway: None,
        };
        if client.say(greeting) {
            self.clients.push(client);
        }
        Ok(())
    }

    /// Reads what the `index`th has said; one that has left or says too much is let go, once it has been heard.
    pub fn hear(&mut self, index: usize) -> Option<Heard> {
        let client = self.clients.get_mut(index)?;
        let left = !client.read();
        let mut said = Vec::new();
        while let Some(line) = client.next_line() {
            said.push(match serde_json::from_slice(&line) {
                Ok(order) => Said::Order(Box::new(order)),
                Err(error) => Said::Nonsense(error.to_string()),
            });
        }
        Some(Heard { from: client.id, said, left })
    }

    /// Lets one go.
    pub fn remove(&mut self, id: ClientId) {
        self.clients.retain(|client| client.id != id);
    }

    /// Lets everybody go.
    pub fn let_go(&mut self) {
        self.clients.clear();
    }

    /// Tells everybody; one that does not read is cut off, and has left when it is heard next.
    pub fn tell(&mut self, report: &Report) {
        self.tell_those(report, |_| true);
    }

    /// Tells this one alone.
    pub fn tell_one(&mut self, one: ClientId, report: &Report) {
        self.tell_those(report, |id| id == one);
    }

    /// Tells everybody but this one.
    pub fn tell_others(&mut self, but: ClientId, report: &Report) {
        self.tell_those(report, |id| id != but);
    }

    /// Tells the gateway, if it is connected.
    pub fn tell_the_gateway(&mut self, report: &Report) {
        let gateway = self.clients.iter().find(|client| client.gateway.is_some()).map(|client| client.id);
        if let Some(id) = gateway {
            self.tell_one(id, report);
        }
    }

    /// Tells this one, if it is the gateway.
    pub fn tell_gateway(&mut self, id: ClientId, report: &Report) {
        if self.is_the_gateway(id) {
            self.tell_one(id, report);
        }
    }

    /// Whether this one is the gateway.
    pub fn is_the_gateway(&self, id: ClientId) -> bool {
        self.clients.iter().any(|client| client.id == id && client.gateway.is_some())
    }

    fn tell_those(&mut self, report: &Report, meant: impl Fn(ClientId) -> bool) {
        for client in self.clients.iter_mut().filter(|client| meant(client.id)) {
            if !client.say(std::slice::from_ref(report)) {
                client.cut_off();
            }
        }
    }
}

impl Client {
    /// Answers whether the other side is still there.
    fn read(&mut self) -> bool {
        let mut bytes = [0u8; 8192];
        loop {
            match self.receive(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
                Err(rustix::io::Errno::WOULDBLOCK) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
            if self.unread.len() > KEEPER_MESSAGE_MAX_BYTES {
                return false;
            }
        }
    }

    fn receive(&mut self, bytes: &mut [u8]) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(bytes)];
        let received = rustix::net::recvmsg(&self.stream, &mut slices, &mut along, RecvFlags::CMSG_CLOEXEC)?;
        // More than one is nothing that we know of; what did not fit the kernel has closed.
        debug_assert!(!received.flags.contains(ReturnFlags::TRUNC));
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.handed = fds.last().or(self.handed.take());
            }
        }
        Ok(received.bytes)
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

    /// Nothing goes in or out any more, which is an event.
    fn cut_off(&mut self) {
        self.gateway = self.gateway.map(|_| false);
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn say(&mut self, reports: &[Report]) -> bool {
        reports.iter().all(|report| wire::line(report).is_ok_and(|line| self.stream.write_all(&line).is_ok()))
    }
}
