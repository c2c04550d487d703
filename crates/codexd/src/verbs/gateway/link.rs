//! The gateway's line to the keeper: it hears which servers live, and passes on what the gateway asks for. When the keeper
//! dies, the next one is waited for, and gets the listening socket from here.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream as StdStream};

use codexd_core::generations::Role as Kept;
use codexd_core::identity::Process;
use codexd_gateway::host::{self, Generation, HostEvent, HostOrder, Role};
use codexd_host::atomic::{self, Durability};
use codexd_host::events::{Event, EventLog};
use codexd_host::service::keeper::{self, Order, Report, StatePhase};
use codexd_host::{Home, process};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender};

use super::arrival;

/// The line.
#[derive(Debug)]
pub struct Link {
    home: Home,
    log: EventLog,
    me: Process,
    listener: UnixListener,
    events: Sender<HostEvent>,
    orders: Receiver<HostOrder>,
    terminate: Signal,
    interrupt: Signal,
    /// Caught and not listened to: the kernel sends it to a suspended process whose keeper dies.
    _hangup: Signal,
    /// Those that the gateway wants ended and no keeper was told of.
    to_retire: Vec<String>,
}

/// Why a conversation is over.
enum Over {
    /// The keeper is gone.
    KeeperGone,
    /// The gateway is to leave, or has left.
    Leave,
}

impl Link {
    /// A line to nobody yet. `listener` is what keepers get.
    ///
    /// # Errors
    /// If signals cannot be caught.
    pub fn new(
        home: Home,
        listener: UnixListener,
        events: Sender<HostEvent>,
        orders: Receiver<HostOrder>,
    ) -> io::Result<Self> {
        Ok(Self {
            log: EventLog::new(home.events()),
            me: process::myself()?,
            home,
            listener,
            events,
            orders,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hangup: signal(SignalKind::hangup())?,
            to_retire: Vec::new(),
        })
    }

    /// Talks to one keeper after the other, until the gateway is to leave.
    pub async fn run(mut self) {
        while let Some(stream) = self.next_keeper().await {
            if let Ok(Over::Leave) = self.converse(stream).await {
                break;
            }
        }
        // It may have left by itself.
        let _ = self.events.send(HostEvent::Leave).await;
    }

    /// `None` when the gateway is to leave before there is one.
    async fn next_keeper(&mut self) -> Option<StdStream> {
        let home = self.home.clone();
        let arrival = arrival::of_a_keeper(&home);
        tokio::pin!(arrival);
        loop {
            tokio::select! {
                stream = &mut arrival => return Some(stream),
                _ = self.terminate.recv() => return None,
                _ = self.interrupt.recv() => return None,
                order = self.orders.recv() => match order? {
                    HostOrder::Retire { mark } => self.to_retire.push(mark),
                    HostOrder::Note { level, kind, message, detail } => {
                        self.note(Event::new(level, kind, message), detail);
                    }
                    // Nobody listens.
                    HostOrder::Report(value) => self.write_down(&value),
                },
            }
        }
    }

    async fn converse(&mut self, stream: StdStream) -> io::Result<Over> {
        introduce(&stream, self.listener.as_fd())?;
        stream.set_nonblocking(true)?;
        let (read, mut write) = UnixStream::from_std(stream)?.into_split();
        let mut lines: Lines<BufReader<OwnedReadHalf>> = BufReader::new(read).lines();
        for generation in std::mem::take(&mut self.to_retire) {
            say(&mut write, &Order::Retire { generation }).await?;
        }
        loop {
            tokio::select! {
                line = lines.next_line() => match line? {
                    Some(line) => self.hear(&line).await,
                    None => return Ok(Over::KeeperGone),
                },
                _ = self.terminate.recv() => return Ok(Over::Leave),
                _ = self.interrupt.recv() => return Ok(Over::Leave),
                order = self.orders.recv() => match order {
                    None => return Ok(Over::Leave),
                    Some(order) => self.pass_on(&mut write, order).await?,
                },
            }
        }
    }

    async fn hear(&self, line: &str) {
        // What a newer keeper says and we do not know is passed over.
        let event = match serde_json::from_str(line) {
            Ok(Report::Generations { generations, .. }) => {
                HostEvent::Generations(generations.into_iter().filter_map(shown).collect())
            }
            Ok(Report::State { phase: StatePhase::Stopping { .. }, .. }) => HostEvent::CurrentDrains,
            _ => return,
        };
        let _ = self.events.send(event).await;
    }

    async fn pass_on(&mut self, write: &mut OwnedWriteHalf, order: HostOrder) -> io::Result<()> {
        match order {
            HostOrder::Retire { mark } => {
                let said = say(write, &Order::Retire { generation: mark.clone() }).await;
                if said.is_err() {
                    self.to_retire.push(mark);
                }
                said
            }
            HostOrder::Report(value) => {
                self.write_down(&value);
                say(write, &Order::Relay { value }).await
            }
            HostOrder::Note { level, kind, message, detail } => {
                self.note(Event::new(level, kind, message), detail);
                Ok(())
            }
        }
    }

    /// How a handover goes, for `status`. What cannot be written is only not told.
    fn write_down(&self, report: &Value) {
        let Some(handover) = report.get("handover") else { return };
        let state = json!({"gateway": self.me, "handover": handover});
        let _ =
            atomic::replace(&self.home.gateway_state(), state.to_string().as_bytes(), Durability::Process);
    }

    /// An event that cannot be written is lost: the clients matter more.
    fn note(&self, event: Event, detail: Value) {
        let fields = match detail {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        let event = fields.into_iter().fold(event, |event, (name, value)| event.with(&name, value));
        let _ = self.log.append(&event);
    }
}

/// What the gateway sees of a server: one that is not promoted, or has no socket of its own, is none of its business.
fn shown(generation: keeper::Generation) -> Option<Generation> {
    let role = match generation.role {
        Kept::Current => Role::Current,
        Kept::Outgoing => Role::Outgoing,
        Kept::Successor => return None,
    };
    let (mark, socket) = (generation.mark?, generation.socket?);
    Some(Generation { mark, pid: generation.pid.0, socket, role })
}

/// Says who is here, and hands over the listening socket along with it.
fn introduce(stream: &StdStream, listener: BorrowedFd<'_>) -> io::Result<()> {
    let line = keeper::wire_line(&Order::Subscribe { moves: host::MOVES })?;
    let along = [listener];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    buffer.push(SendAncillaryMessage::ScmRights(&along));
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&line)], &mut buffer, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

async fn say(write: &mut OwnedWriteHalf, order: &Order) -> io::Result<()> {
    write.write_all(&keeper::wire_line(order)?).await
}
