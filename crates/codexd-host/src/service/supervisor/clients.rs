//! The clients of the supervisor: commands, and the gateway.
//!
//! Any program of this user may connect, and may send anything or nothing. So every collection here has a bound: incomplete orders take at
//! most [`ORDER_MAX_BYTES`] per connection and [`ORDERS_UNFINISHED_MAX_BYTES`] together. When all connections are in use, a new one
//! replaces the one that has been idle the longest: first a connection that has never sent an order, never the gateway's. A connection that
//! does not read is closed.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use codexd_core::clock::Monotonic;
use codexd_core::identity::Pid;
use codexd_core::limits::{
    ANNOUNCED_ORDER_TIMEOUT_MS, ORDER_MAX_BYTES, ORDERS_UNFINISHED_MAX_BYTES, SUPERVISOR_CLIENTS_MAX,
    SUPERVISOR_MESSAGE_MAX_BYTES,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::framing::{self, Message, ReadOrder, Reply, ReplyStatus};
use super::inbox::{Inbox, Received};
use super::wire::{Order, Refusal, Report};

/// The id of a client, never used twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientId(u64);

/// A connected process.
#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    pid: Option<Pid>,
    inbox: Inbox,
    /// When an announced order is overdue.
    announced_until: Option<Monotonic>,
    /// It has sent a valid order.
    has_sent_order: bool,
    /// When it last sent an order, on a clock that ticks with every read.
    last_order_at: u64,
    /// This end has shut it down; the hangup is still to be handled.
    is_cut: bool,
    /// Set for the gateway: whether it migrates threads.
    gateway: Option<bool>,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    clients: Vec<Client>,
    next: u64,
    received: u64,
}

/// The orders of one client.
#[derive(Debug)]
pub struct ReceivedOrders {
    /// The client.
    pub from: ClientId,
    /// The orders, with their ids.
    pub orders: Vec<(Option<u64>, Box<Order>)>,
    /// Whether it has disconnected.
    pub left: bool,
}

impl Clients {
    /// The descriptors to poll, in the order of the index of [`Clients::receive`].
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.clients.iter().map(|client| client.stream.as_fd())
    }

    /// The processes of all clients: they may descend from an app-server and must not be swept with it.
    pub fn pids(&self) -> Vec<Pid> {
        self.clients.iter().filter_map(|client| client.pid).collect()
    }

    /// Whether no command is connected.
    pub fn has_no_commands(&self) -> bool {
        self.clients.iter().all(|client| client.gateway.is_some())
    }

    /// Whether the gateway is connected and migrates threads.
    pub fn gateway_moves(&self) -> bool {
        self.clients.iter().any(|client| client.gateway == Some(true))
    }

    /// Marks a client as the gateway and returns the listening socket that it has sent. A previous gateway is disconnected.
    pub fn become_gateway(&mut self, id: ClientId, moves: bool) -> Option<OwnedFd> {
        for client in self.clients.iter_mut().filter(|client| client.id != id && client.gateway.is_some()) {
            client.cut_off();
        }
        let client = self.clients.iter_mut().find(|client| client.id == id)?;
        client.gateway = Some(moves);
        client.inbox.allow(SUPERVISOR_MESSAGE_MAX_BYTES);
        client.inbox.take_descriptor()
    }

    /// Accepts a connection of this user or root, and sends it `greeting`.
    ///
    /// # Errors
    /// accept(2) failed, but not because no client waits.
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
        self.make_room();
        // A client that has disconnected meanwhile is no failure.
        let _ = self.add(stream, greeting, ORDER_MAX_BYTES);
        Ok(())
    }

    /// Closes the connection that has been idle the longest, if all are in use.
    fn make_room(&mut self) {
        let present = || self.clients.iter().filter(|client| !client.is_cut);
        if present().count() < SUPERVISOR_CLIENTS_MAX {
            return;
        }
        let idle = present().filter(|client| client.gateway.is_none());
        let oldest = idle.min_by_key(|client| (client.has_sent_order, client.last_order_at));
        if let Some(oldest) = oldest.map(|client| client.id) {
            self.cut_off(oldest);
        }
    }

    /// Adds the command that has started the supervisor.
    ///
    /// # Errors
    /// Its socket cannot be used.
    pub fn add_first(&mut self, stream: UnixStream, greeting: &[Report]) -> io::Result<()> {
        self.add(stream, greeting, SUPERVISOR_MESSAGE_MAX_BYTES)
    }

    fn add(&mut self, stream: UnixStream, greeting: &[Report], order_max_bytes: usize) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let pid = codexd_protocol::unix::peer(&stream)?.pid.map(Pid);
        self.next += 1;
        self.received += 1;
        let mut client = Client {
            id: ClientId(self.next),
            stream,
            pid,
            inbox: Inbox::new(order_max_bytes),
            announced_until: None,
            has_sent_order: false,
            last_order_at: self.received,
            is_cut: false,
            gateway: None,
        };
        if greeting.iter().all(|report| send(&mut client.stream, report)) {
            self.clients.push(client);
        }
        Ok(())
    }

    /// Reads the orders of client number `index`, and refuses invalid ones. A client that has disconnected or sends too much is removed
    /// after that.
    pub fn receive(&mut self, index: usize) -> Option<ReceivedOrders> {
        self.received += 1;
        let now = self.received;
        let client = self.clients.get_mut(index)?;
        if client.is_cut {
            // Orders that it has sent before are not read any more.
            return Some(ReceivedOrders { from: client.id, orders: Vec::new(), left: true });
        }
        let received = client.inbox.receive(&client.stream);
        let (mut orders, mut reads) = (Vec::new(), true);
        let stream = &mut client.stream;
        client.inbox.take_lines(|line| match framing::read_order(line) {
            ReadOrder { id, order: Ok(order) } => orders.push((id, order)),
            ReadOrder { id, order: Err(message) } => {
                // A client that does not read gets no more refusals.
                reads = reads && send(stream, &refusal(id, Refusal::new(message)));
            }
        });
        if !reads {
            client.cut_off();
        }
        if !orders.is_empty() {
            client.has_sent_order = true;
            client.last_order_at = now;
            client.restore_limit();
        }
        if received == Received::TooLong {
            let message = format!(
                "the order exceeds {} bytes; a larger order must be announced first",
                client.inbox.max_bytes()
            );
            send(&mut client.stream, &refusal(None, Refusal::new(message)));
        }
        let received = ReceivedOrders { from: client.id, orders, left: received != Received::Some };
        self.bound_unfinished();
        Some(received)
    }

    /// Closes connections until the incomplete orders are within their bound, beginning with the client whose last order is the oldest.
    fn bound_unfinished(&mut self) {
        let counts = |client: &&Client| client.inbox.max_bytes() <= ORDER_MAX_BYTES && !client.is_cut;
        let unfinished =
            |clients: &[Client]| clients.iter().filter(counts).map(|client| client.inbox.bytes()).sum();
        while ORDERS_UNFINISHED_MAX_BYTES < unfinished(&self.clients) {
            let oldest = self.clients.iter().filter(counts).filter(|client| client.inbox.bytes() > 0);
            let Some(id) = oldest.min_by_key(|client| client.last_order_at).map(|client| client.id) else {
                return;
            };
            self.cut_off(id);
        }
    }

    /// Allows a client one order of `bytes`.
    ///
    /// # Errors
    /// It is too large, or the announced order of another client has not arrived.
    pub fn announce(&mut self, id: ClientId, bytes: usize, now: Monotonic) -> Result<(), Refusal> {
        if bytes > SUPERVISOR_MESSAGE_MAX_BYTES {
            return Err(Refusal::new(format!(
                "an order may not exceed {SUPERVISOR_MESSAGE_MAX_BYTES} bytes"
            )));
        }
        if self.clients.iter().any(|client| client.id != id && client.announced_until.is_some()) {
            return Err(Refusal::new("another client is sending a large order"));
        }
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.announced_until = Some(now + ANNOUNCED_ORDER_TIMEOUT_MS);
            let allowed = client.inbox.max_bytes().max(bytes);
            client.inbox.allow(allowed);
        }
        Ok(())
    }

    /// When an announced order is overdue.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.clients.iter().filter_map(|client| client.announced_until).min()
    }

    /// Closes connections whose announced order is overdue.
    pub fn end_overdue(&mut self, now: Monotonic) {
        let is_overdue = |client: &&mut Client| client.announced_until.is_some_and(|until| until <= now);
        self.clients.iter_mut().filter(is_overdue).for_each(Client::cut_off);
    }

    /// Closes the connection of a client.
    pub fn disconnect(&mut self, id: ClientId) {
        self.cut_off(id);
    }

    /// Removes a client.
    pub fn remove(&mut self, id: ClientId) {
        self.clients.retain(|client| client.id != id);
    }

    /// Closes every connection.
    pub fn close_all(&mut self) {
        self.clients.clear();
    }

    fn cut_off(&mut self, id: ClientId) {
        self.clients.iter_mut().filter(|client| client.id == id).for_each(Client::cut_off);
    }

    /// Replies to an order, in the form that its sender knows.
    pub fn reply(&mut self, to: ClientId, id: Option<u64>, status: ReplyStatus) {
        match (id, status) {
            (id, ReplyStatus::Refused(why)) => self.send_matching(&refusal(id, why), |client| client == to),
            (Some(re), status) => {
                self.send_matching(&Message::Reply(Reply { re, status }), |client| client == to);
            }
            (None, ReplyStatus::Progress | ReplyStatus::Ok) => {}
        }
    }

    /// The process of a client.
    pub fn pid(&self, id: ClientId) -> Option<Pid> {
        self.clients.iter().find(|client| client.id == id).and_then(|client| client.pid)
    }

    /// Sends to one client, with open files.
    ///
    /// # Errors
    /// The client has left, or does not read.
    pub fn send_with_files(
        &mut self,
        to: ClientId,
        report: &Report,
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let client = self.clients.iter().find(|client| client.id == to && !client.is_cut);
        let client = client.ok_or(ErrorKind::NotConnected)?;
        let line = framing::line(report)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        if !along.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL;
        let sent = rustix::net::sendmsg(&client.stream, &[IoSlice::new(&line)], &mut along, flags)?;
        if sent == line.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// Sends to every client. A client that does not read is disconnected.
    pub fn broadcast(&mut self, report: &Report) {
        self.send_matching(report, |_| true);
    }

    /// Sends to one client.
    pub fn send_to(&mut self, one: ClientId, report: &Report) {
        self.send_matching(report, |id| id == one);
    }

    /// Sends to every client but one.
    pub fn broadcast_except(&mut self, but: ClientId, report: &Report) {
        self.send_matching(report, |id| id != but);
    }

    /// Sends to the gateway, if it is connected.
    pub fn send_to_gateway(&mut self, report: &Report) {
        let gateway = self.clients.iter().find(|client| client.gateway.is_some()).map(|client| client.id);
        if let Some(id) = gateway {
            self.send_to(id, report);
        }
    }

    /// Sends to a client, if it is the gateway.
    pub fn send_if_gateway(&mut self, id: ClientId, report: &Report) {
        if self.is_gateway(id) {
            self.send_to(id, report);
        }
    }

    /// Whether this client is the gateway.
    pub fn is_gateway(&self, id: ClientId) -> bool {
        self.clients.iter().any(|client| client.id == id && client.gateway.is_some())
    }

    fn send_matching(&mut self, message: &impl serde::Serialize, is_meant: impl Fn(ClientId) -> bool) {
        for client in self.clients.iter_mut().filter(|client| is_meant(client.id) && !client.is_cut) {
            if !send(&mut client.stream, message) {
                client.cut_off();
            }
        }
    }
}

impl Client {
    /// Restores the normal limit after an announced order.
    fn restore_limit(&mut self) {
        if self.announced_until.take().is_some() && self.gateway.is_none() {
            self.inbox.allow(ORDER_MAX_BYTES);
        }
    }

    /// Shuts the connection down; the hangup is an event.
    fn cut_off(&mut self) {
        self.gateway = self.gateway.map(|_| false);
        self.is_cut = true;
        self.announced_until = None;
        self.inbox.clear();
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn refusal(id: Option<u64>, why: Refusal) -> Message {
    match id {
        Some(re) => Message::Reply(Reply { re, status: ReplyStatus::Refused(why) }),
        None => Message::Report(Report::Refused(why)),
    }
}

/// Whether the client accepts the message.
fn send(stream: &mut UnixStream, message: &impl serde::Serialize) -> bool {
    framing::line(message).is_ok_and(|line| stream.write_all(&line).is_ok())
}
