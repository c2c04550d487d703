//! The gateway's connection to the supervisor: the gateway gets the list of running servers and sends its orders. When the
//! supervisor exits, the session waits for the next one and passes it the control socket.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream as StdStream};

use codexd_core::contract::EventLevel;
use codexd_core::generations::Role as ManagedRole;
use codexd_core::os_text::OsText;
use codexd_gateway::host::{self, Generation, HostCommand, HostEvent, Role};
use codexd_gateway::state_writer::StateWriter;
use codexd_host::events::{Event, EventLog};
use codexd_host::launch::gateway::Arguments;
use codexd_host::service::supervisor::{self, Order, Report, StatePhase};
use codexd_host::{Home, memory_trim, process};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender};

use super::gateway_state::GatewayStateFile;
use super::thread_settings::StoredThreadSettings;
use super::{supervisor_connect, tcp_listener_config};

/// The session.
#[derive(Debug)]
pub struct SupervisorSession {
    home: Home,
    arguments: Arguments,
    log: EventLog,
    state_writer: StateWriter,
    listener: UnixListener,
    events: Sender<HostEvent>,
    orders: Receiver<HostCommand>,
    terminate: Signal,
    interrupt: Signal,
    /// The connected supervisor manages no process.
    supervisor_is_idle: bool,
    /// Caught and ignored: the kernel sends SIGHUP to a suspended process whose parent exits.
    _hangup: Signal,
    /// The servers that the gateway retires and that may still run. A supervisor may exit before it has ended them; the next
    /// one gets the order again.
    to_retire: Vec<Retirement>,
    gateway_state: GatewayStateFile,
    thread_settings: StoredThreadSettings,
    /// The supervisor reports a refusal only to the sender of the order.
    refuses_to_sender: bool,
}

/// A server to be ended.
#[derive(Debug)]
struct Retirement {
    generation_id: String,
    /// The connected supervisor has the order.
    is_sent: bool,
}

/// Why a connection is over.
enum Over {
    /// The supervisor exited.
    SupervisorGone,
    /// The gateway is to exit, or exits by itself.
    Leave,
}

impl SupervisorSession {
    /// A session without a connection. Each supervisor gets `listener`.
    ///
    /// # Errors
    /// If a signal handler cannot be installed.
    pub fn new(
        arguments: Arguments,
        listener: UnixListener,
        state_writer: StateWriter,
        events: Sender<HostEvent>,
        orders: Receiver<HostCommand>,
    ) -> io::Result<Self> {
        let home = arguments.home.clone();
        let gateway_state = GatewayStateFile::new(&home, process::myself()?, state_writer.clone());
        Ok(Self {
            log: EventLog::new(home.events()),
            state_writer,
            home,
            arguments,
            listener,
            events,
            orders,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            supervisor_is_idle: false,
            _hangup: signal(SignalKind::hangup())?,
            to_retire: Vec::new(),
            gateway_state,
            thread_settings: StoredThreadSettings::default(),
            refuses_to_sender: false,
        })
    }

    /// Serves one supervisor after the other until the gateway is to exit.
    pub async fn run(mut self) {
        if self.arguments.listen.is_none() {
            self.gateway_state.write(&json!({"listener": null}), self.arguments.subagent_approvals).await;
        }
        while let Some(stream) = self.next_supervisor().await {
            if let Ok(Over::Leave) = self.serve_connection(stream).await {
                break;
            }
        }
        // The gateway may have exited by itself.
        let _ = self.events.send(HostEvent::Leave).await;
    }

    /// Waits for a supervisor; `None` if the gateway is to exit before.
    async fn next_supervisor(&mut self) -> Option<StdStream> {
        let home = self.home.clone();
        let connect = supervisor_connect::to_supervisor(&home);
        tokio::pin!(connect);
        loop {
            tokio::select! {
                stream = &mut connect => return Some(stream),
                _ = self.terminate.recv() => return None,
                _ = self.interrupt.recv() => return None,
                order = self.orders.recv() => match order? {
                    HostCommand::TrimMemory => memory_trim::release_free_memory(),
                    HostCommand::Retire { generation_id } => self.to_retire.push(Retirement { generation_id, is_sent: false }),
                    HostCommand::Note { level, kind, message, detail } => {
                        self.log_event(Event::new(level, kind, message), detail);
                    }
                    HostCommand::StoreThreadSettings(settings) => _ = self.thread_settings.store(settings),
                    // No supervisor is connected.
                    HostCommand::Report(value) => {
                        self.gateway_state.write(&value, self.arguments.subagent_approvals).await;
                    }
                },
            }
        }
    }

    async fn serve_connection(&mut self, stream: StdStream) -> io::Result<Over> {
        subscribe(&stream, self.listener.as_fd(), self.thread_settings.is_complete())?;
        stream.set_nonblocking(true)?;
        let (read, mut write) = UnixStream::from_std(stream)?.into_split();
        let mut lines: Lines<BufReader<OwnedReadHalf>> = BufReader::new(read).lines();
        for retirement in &mut self.to_retire {
            retirement.is_sent = false;
        }
        self.thread_settings.conversation_begins();
        loop {
            tokio::select! {
                line = lines.next_line() => match line? {
                    Some(line) => self.receive(&line, &mut write).await?,
                    None => return Ok(Over::SupervisorGone),
                },
                _ = self.terminate.recv() => return Ok(Over::Leave),
                _ = self.interrupt.recv() => return Ok(Over::Leave),
                order = self.orders.recv() => match order {
                    None => return Ok(Over::Leave),
                    Some(order) => self.forward_to_supervisor(&mut write, order).await?,
                },
            }
        }
    }

    async fn receive(&mut self, line: &str, write: &mut OwnedWriteHalf) -> io::Result<()> {
        // Reports of a newer supervisor that this gateway does not know are ignored.
        match serde_json::from_str(line) {
            // A supervisor that has just started manages nothing yet. The servers keep running, and it will adopt them.
            Ok(Report::Generations { generations, .. })
                if generations.is_empty() && self.supervisor_is_idle => {}
            Ok(Report::Generations { generations, .. }) if self.thread_settings.is_being_sent() => {
                self.thread_settings.generations = Some(generations);
            }
            Ok(Report::ThreadSettings { threads, is_last, may_lack }) => {
                if let Some(order) = self.thread_settings.sent(threads, is_last) {
                    return send_order(write, &order).await;
                }
                if may_lack {
                    let _ = self.events.send(HostEvent::ThreadSettingsLost).await;
                }
                let _ = self.events.send(HostEvent::ThreadSettings(self.thread_settings.all())).await;
                if let Some(generations) = self.thread_settings.generations.take() {
                    self.show(generations, write).await?;
                }
            }
            Ok(Report::ThreadSettingsRefused { thread }) => {
                let event = Event::new(
                    EventLevel::Warn,
                    "threadSettings.notStored",
                    format!(
                        "failed to store the settings of thread {thread} in the supervisor's memory: the settings of all \
                         threads exceed the limit; if the gateway is killed, the next app-server loads the thread without its config"
                    ),
                );
                self.log_event(event, json!({"thread": thread}));
            }
            Ok(Report::Generations { generations, .. }) => self.show(generations, write).await?,
            Ok(Report::State { phase, stores_thread_settings, protocol, .. }) => {
                self.refuses_to_sender = protocol >= 1;
                if !stores_thread_settings && !self.thread_settings.is_complete() {
                    let _ = self.events.send(HostEvent::ThreadSettingsLost).await;
                }
                for order in self.thread_settings.supervisor_spoke(stores_thread_settings) {
                    send_order(write, &order).await?;
                }
                self.supervisor_is_idle = phase == StatePhase::Idle;
                if let StatePhase::Stopping { .. } = phase {
                    let _ = self.events.send(HostEvent::CurrentDrains).await;
                }
            }
            Ok(Report::ConfigureGateway { args }) => self.configure(args).await,
            // The orders of the gateway carry no ids, because it awaits no reply. An older supervisor also reports refusals of
            // the orders of others.
            Ok(Report::Refused(refusal)) if self.refuses_to_sender => {
                let message = format!("the supervisor rejected an order of the gateway: {}", refusal.message);
                let event = Event::new(EventLevel::Warn, "gateway.order.refused", message);
                self.log_event(event, json!({"errno": refusal.errno}));
            }
            Ok(Report::SocketFolderChanged) => {
                let _ = self.events.send(HostEvent::SocketsChanged).await;
            }
            _ => {}
        }
        Ok(())
    }

    /// Applies new arguments. The gateway reports what happens to the TCP listener.
    async fn configure(&mut self, args: Vec<OsText>) {
        let args = std::iter::once("codexd".into()).chain(args.into_iter().map(|arg| arg.0));
        let Some(arguments) = Arguments::parse(args).filter(|new| new.home == self.home) else { return };
        let subagent_approvals = arguments.subagent_approvals;
        let tcp = tcp_listener_config(&arguments);
        self.arguments = arguments;
        let _ = self.events.send(HostEvent::Configure { tcp, subagent_approvals }).await;
    }

    async fn show(
        &mut self,
        generations: Vec<supervisor::Generation>,
        write: &mut OwnedWriteHalf,
    ) -> io::Result<()> {
        self.resend_retirements(&generations, write).await?;
        let visible_generation = generations.into_iter().filter_map(visible_generation).collect();
        let _ = self.events.send(HostEvent::Generations(visible_generation)).await;
        Ok(())
    }

    /// Sends the orders to retire that an earlier supervisor has not carried out.
    async fn resend_retirements(
        &mut self,
        generations: &[supervisor::Generation],
        write: &mut OwnedWriteHalf,
    ) -> io::Result<()> {
        let lives = |generation_id: &str| {
            generations.iter().any(|one| one.generation_id.as_deref() == Some(generation_id))
        };
        for retirement in self.to_retire.iter_mut().filter(|one| !one.is_sent && lives(&one.generation_id)) {
            send_order(write, &Order::Retire { generation: retirement.generation_id.clone() }).await?;
            retirement.is_sent = true;
        }
        // A server that this supervisor was to end and no longer lists is gone.
        self.to_retire.retain(|one| !one.is_sent || lives(&one.generation_id));
        Ok(())
    }

    async fn forward_to_supervisor(
        &mut self,
        write: &mut OwnedWriteHalf,
        order: HostCommand,
    ) -> io::Result<()> {
        match order {
            HostCommand::TrimMemory => {
                memory_trim::release_free_memory();
                Ok(())
            }
            HostCommand::Retire { generation_id } => {
                self.to_retire.push(Retirement { generation_id: generation_id.clone(), is_sent: true });
                send_order(write, &Order::Retire { generation: generation_id }).await
            }
            HostCommand::StoreThreadSettings(settings) => match self.thread_settings.store(settings) {
                Some(order) => send_order(write, &order).await,
                None => Ok(()),
            },
            HostCommand::Report(value) => {
                self.gateway_state.write(&value, self.arguments.subagent_approvals).await;
                send_order(write, &Order::Relay { value }).await
            }
            HostCommand::Note { level, kind, message, detail } => {
                self.log_event(Event::new(level, kind, message), detail);
                Ok(())
            }
        }
    }

    /// Logs an event. An event that cannot be written is lost: the gateway does not wait.
    fn log_event(&self, event: Event, detail: Value) {
        let fields = match detail {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        let event = fields.into_iter().fold(event, |event, (name, value)| event.with(&name, value));
        let log = self.log.clone();
        let kind = event.kind.clone();
        if !self.state_writer.run(move || drop(log.append(&event))) {
            self.log.count_dropped(&kind);
        }
    }
}

/// The generation as the gateway sees it; `None` for a successor and for a server without its own socket.
fn visible_generation(generation: supervisor::Generation) -> Option<Generation> {
    let role = match generation.role {
        ManagedRole::Current => Role::Current,
        ManagedRole::Outgoing => Role::Outgoing,
        ManagedRole::Successor => return None,
    };
    let (generation_id, socket) = (generation.generation_id?, generation.socket?);
    Some(Generation { id: generation_id, pid: generation.pid.0, socket, role })
}

/// Subscribes to the reports of the supervisor, and passes it the control socket.
fn subscribe(stream: &StdStream, listener: BorrowedFd<'_>, knows_thread_settings: bool) -> io::Result<()> {
    let line = supervisor::wire_line(&Order::Subscribe { moves: host::MOVES, knows_thread_settings })?;
    let along = [listener];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    buffer.push(SendAncillaryMessage::ScmRights(&along));
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&line)], &mut buffer, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

async fn send_order(write: &mut OwnedWriteHalf, order: &Order) -> io::Result<()> {
    write.write_all(&supervisor::wire_line(order)?).await
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use codexd_core::config::SubagentApprovals;
    use codexd_core::contract::EventLevel;
    use codexd_core::limits::EVENTS_LOCK_TIMEOUT_MS;
    use codexd_gateway::state_writer::StateWriter;
    use codexd_host::Home;
    use codexd_host::events::{Event, EventLog};
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::{Arguments, SupervisorSession};

    #[tokio::test]
    async fn a_locked_event_log_does_not_hold_up_the_gateway() {
        const EVENTS: u32 = 10;
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        let log = EventLog::new(home.events());
        log.append(&Event::new(EventLevel::Info, "first", "makes the file")).expect("appended");
        let holder = std::fs::File::open(home.events()).expect("opened");
        holder.lock().expect("locked");
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("bound");
        let writer = StateWriter::start().expect("a thread");
        let (events, _host_events) = mpsc::channel(1);
        let (_orders, orders) = mpsc::channel(1);
        let arguments = Arguments { home, listen: None, subagent_approvals: SubagentApprovals::default() };
        let session =
            SupervisorSession::new(arguments, listener, writer.clone(), events, orders).expect("made");
        let began = Instant::now();
        for number in 0..EVENTS {
            session
                .log_event(Event::new(EventLevel::Warn, format!("test.{number}"), "it happened"), json!({}));
        }
        assert!(began.elapsed() < Duration::from_millis(u64::from(EVENTS) * EVENTS_LOCK_TIMEOUT_MS / 2));
        drop(holder);
        assert!(writer.finish(Duration::from_secs(20)));
        let newest = log.newest(1).pop().expect("an event");
        assert_eq!(newest.kind, format!("test.{}", EVENTS - 1));
    }
}
