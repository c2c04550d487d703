//! The I/O half on real sockets, around a scripted hub.

mod clients;
mod large;
mod state_store;
mod tcp_listener;
mod uninitialized;
mod upstream_connections;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use codexd_core::clock::Monotonic;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::event_loop::drain;
use super::logic::Logic;
use super::shell_context::ShellContext;
use crate::host::{
    Generation, HostCommand, HostEvent, Listeners, PersistedClientIdentity, PersistedGoals, Role, StateStore,
    TcpListenerConfig,
};
use crate::hub::{Action, ClientId, Event};
use crate::state_writer::StateWriter;

/// Longer than anything here takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(TEST_TIMEOUT, future).await.expect("in time")
}

/// Reports events to the test and performs the test's actions.
struct Scripted {
    events: mpsc::UnboundedSender<Event>,
    script: Rc<RefCell<Script>>,
}

#[derive(Default)]
pub(super) struct Script {
    /// Actions that follow the next event.
    pub(super) next: Vec<Action>,
    /// Actions that follow an event.
    pub(super) reply: Option<fn(&Event) -> Vec<Action>>,
    pub(super) deadline: Option<Monotonic>,
    pub(super) paused: bool,
    pub(super) unready: bool,
    pub(super) is_uninitialized: bool,
    pub(super) resumed: Vec<ClientId>,
    /// Messages are not reported to the test, only counted.
    pub(super) quiet: bool,
    pub(super) texts: usize,
}

impl Logic for Scripted {
    fn step(&mut self, event: Event, _: Monotonic, out: &mut Vec<Action>) {
        let mut script = self.script.borrow_mut();
        if let (Event::ClientConnected(client), false) = (&event, script.is_uninitialized) {
            out.push(Action::Admit(*client));
        }
        out.append(&mut script.next);
        if let Some(reply) = script.reply {
            out.append(&mut reply(&event));
        }
        if matches!(event, Event::DeadlineReached) {
            script.deadline = None;
        }
        let text = matches!(event, Event::ClientMessage(..) | Event::ConnectionMessage(..));
        script.texts += usize::from(text);
        if !(text && script.quiet) {
            self.events.send(event).expect("the test listens");
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        self.script.borrow().deadline
    }

    fn wants_input(&self, _: ClientId) -> bool {
        !self.script.borrow().paused
    }

    fn take_readable(&mut self, resumed: &mut Vec<ClientId>) {
        resumed.append(&mut self.script.borrow_mut().resumed);
    }

    fn is_ready(&self) -> bool {
        !self.script.borrow().unready
    }

    fn has_initialized(&self, _: ClientId) -> bool {
        !self.script.borrow().is_uninitialized
    }
}

/// A gateway in a folder of its own.
pub(super) struct TestGateway {
    pub(super) folder: tempfile::TempDir,
    pub(super) shell: Rc<ShellContext>,
    pub(super) script: Rc<RefCell<Script>>,
    pub(super) store: FakeStateStore,
    events: mpsc::UnboundedReceiver<Event>,
    host: mpsc::Sender<HostEvent>,
    pub(super) host_commands: mpsc::Receiver<HostCommand>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// State in memory, in place of files.
#[derive(Clone, Default)]
pub(super) struct FakeStateStore {
    pub(super) goals: Arc<Mutex<PersistedGoals>>,
    /// How many more times writing the goals fails.
    pub(super) fails: Arc<AtomicU32>,
    pub(super) client_identity: Arc<Mutex<Option<PersistedClientIdentity>>>,
    pub(super) disk: Arc<Disk>,
}

/// A disk that may hang.
#[derive(Default)]
pub(super) struct Disk {
    hangs: Mutex<bool>,
    changed: Condvar,
}

impl Disk {
    pub(super) fn hang(&self, hangs: bool) {
        *self.hangs.lock().expect("whole") = hangs;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let hangs = self.hangs.lock().expect("whole");
        drop(self.changed.wait_timeout_while(hangs, TEST_TIMEOUT, |hangs| *hangs).expect("whole"));
    }
}

impl StateStore for FakeStateStore {
    fn goals(&mut self) -> PersistedGoals {
        self.goals.lock().expect("whole").clone()
    }

    fn persist_goals(&mut self, goals: &PersistedGoals) -> std::io::Result<()> {
        self.disk.wait();
        if let Some(left) = self.fails.load(Relaxed).checked_sub(1) {
            self.fails.store(left, Relaxed);
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        *self.goals.lock().expect("whole") = goals.clone();
        Ok(())
    }

    fn client_identity(&mut self) -> Option<PersistedClientIdentity> {
        self.client_identity.lock().expect("whole").clone()
    }

    fn persist_client_identity(&mut self, client_identity: &PersistedClientIdentity) -> std::io::Result<()> {
        self.disk.wait();
        *self.client_identity.lock().expect("whole") = Some(client_identity.clone());
        Ok(())
    }
}

/// Runs a test in a gateway.
pub(super) fn with_gateway(test: impl AsyncFnOnce(&mut TestGateway)) {
    with_gateway_config(|_| None, |_| true, test);
}

pub(super) fn with_gateway_config(
    tcp: impl FnOnce(&std::path::Path) -> Option<TcpListenerConfig>,
    is_allowed_user: fn(u32) -> bool,
    test: impl AsyncFnOnce(&mut TestGateway),
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let tcp = tcp(folder.path());
    runtime.block_on(LocalSet::new().run_until(async move {
        let control = codexd_protocol::unix::bind(&folder.path().join("control")).expect("bound");
        let (event_sender, events) = mpsc::unbounded_channel();
        let script = Rc::new(RefCell::new(Script::default()));
        let store = FakeStateStore::default();
        let logic = Box::new(Scripted { events: event_sender, script: Rc::clone(&script) });
        let writer = StateWriter::start().expect("a thread");
        let shell = ShellContext::new(logic, drain, Box::new(store.clone()), writer);
        let (host, host_events) = mpsc::channel(8);
        let (host_commands_sender, host_commands) = mpsc::channel(8);
        let listeners = Listeners { control, tcp };
        let serving = spawn_local(super::serve(
            Rc::clone(&shell),
            listeners,
            host_events,
            host_commands_sender,
            is_allowed_user,
        ));
        let mut gateway = TestGateway { folder, shell, script, store, events, host, host_commands, serving };
        test(&mut gateway).await;
    }));
}

pub(super) type Socket<S = UnixStream> = WebSocketStream<S>;

impl TestGateway {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Event {
        soon(self.events.recv()).await.expect("the hub runs")
    }

    /// The next event, in its `Debug` form.
    pub(super) async fn next_debug(&mut self) -> String {
        format!("{:?}", self.next().await)
    }

    /// Lets the gateway begin, which restores what is persisted at that moment.
    pub(super) async fn begin(&self) {
        tokio::task::yield_now().await;
    }

    pub(super) fn nothing_happened(&mut self) {
        assert!(self.events.try_recv().is_err());
    }

    /// Has the hub request actions.
    pub(super) async fn act(&mut self, actions: Vec<Action>) {
        self.script.borrow_mut().next = actions;
        self.shell.feed(Event::DeadlineReached);
        assert!(matches!(self.next().await, Event::DeadlineReached));
    }

    pub(super) async fn raw_client(&self) -> UnixStream {
        UnixStream::connect(self.path("control")).await.expect("connected")
    }

    /// A client after the WebSocket handshake.
    pub(super) async fn client(&mut self) -> (ClientId, Socket) {
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let stream = self.raw_client().await;
        let (socket, response) =
            soon(tokio_tungstenite::client_async_with_config("ws://localhost/rpc", stream, Some(config)))
                .await
                .expect("shaken hands");
        assert_eq!(response.headers()["x-codex-websocket-max-unfragmented-message-bytes"], "16777216");
        let Event::ClientConnected(client) = self.next().await else { panic!("a client connected") };
        (client, socket)
    }

    pub(super) async fn send_host_event(&self, event: HostEvent) {
        self.host.send(event).await.expect("it listens");
    }

    pub(super) async fn generations(&self, list: &[(&str, Role)]) {
        let list = list.iter().map(|(id, role)| Generation {
            id: (*id).to_owned(),
            pid: 1,
            socket: self.path(id),
            role: *role,
        });
        self.send_host_event(HostEvent::Generations(list.collect())).await;
    }

    pub(super) async fn leave(&mut self) {
        self.send_host_event(HostEvent::Leave).await;
        soon(&mut self.serving).await.expect("no panic").expect("it returned");
    }

    pub(super) async fn host_command(&mut self) -> HostCommand {
        soon(self.host_commands.recv()).await.expect("it runs")
    }

    pub(super) fn app_server(&self, id: &str) -> UnixListener {
        UnixListener::bind(self.path(id)).expect("bound")
    }
}

/// The app-server's end of a connection, after the handshake.
pub(super) async fn accept(listener: &UnixListener) -> Socket {
    let (stream, _) = soon(listener.accept()).await.expect("accepted");
    soon(tokio_tungstenite::accept_async(stream)).await.expect("shaken hands")
}

pub(super) async fn send(socket: &mut Socket, text: &str) {
    soon(socket.send(Message::text(text))).await.expect("sent");
}

/// The next text, or `close <code> <reason>`, or `gone`.
pub(super) async fn next_text<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>) -> String {
    loop {
        match soon(socket.next()).await {
            Some(Ok(Message::Text(text))) => return text.to_string(),
            Some(Ok(Message::Close(Some(frame)))) => {
                return format!("close {} {}", u16::from(frame.code), frame.reason);
            }
            Some(Ok(Message::Close(None))) => return "close".into(),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return "gone".into(),
        }
    }
}
