//! The shell around a brain that does what the test says, on real sockets.

mod clients;
mod large;
mod links;
mod state;
mod tcp;
mod unintroduced;

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

use super::brain::Brain;
use super::driver::Driver;
use crate::host::{Doors, Generation, HostEvent, HostOrder, KeptGoals, KeptPersona, Memory, Role, TcpDoor};
use crate::hub::{Action, ClientId, Event};
use crate::state_writer::StateWriter;

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Tells the test what happens and does what the test says.
struct Scripted {
    seen: mpsc::UnboundedSender<Event>,
    script: Rc<RefCell<Script>>,
}

#[derive(Default)]
pub(super) struct Script {
    /// What is done at the next event.
    pub(super) next: Vec<Action>,
    /// What follows from an event.
    pub(super) reply: Option<fn(&Event) -> Vec<Action>>,
    pub(super) deadline: Option<Monotonic>,
    pub(super) deaf: bool,
    pub(super) unready: bool,
    pub(super) is_uninitialized: bool,
    pub(super) resumed: Vec<ClientId>,
    /// Texts are not told to the test, only counted.
    pub(super) quiet: bool,
    pub(super) texts: usize,
}

impl Brain for Scripted {
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
            self.seen.send(event).expect("the test listens");
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        self.script.borrow().deadline
    }

    fn wants_input(&self, _: ClientId) -> bool {
        !self.script.borrow().deaf
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
pub(super) struct House {
    pub(super) folder: tempfile::TempDir,
    pub(super) driver: Rc<Driver>,
    pub(super) script: Rc<RefCell<Script>>,
    pub(super) memory: Notebook,
    seen: mpsc::UnboundedReceiver<Event>,
    host: mpsc::Sender<HostEvent>,
    pub(super) orders: mpsc::Receiver<HostOrder>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// What a gateway is to remember.
#[derive(Clone, Default)]
pub(super) struct Notebook {
    pub(super) goals: Arc<Mutex<KeptGoals>>,
    /// So often goals cannot be kept.
    pub(super) fails: Arc<AtomicU32>,
    pub(super) persona: Arc<Mutex<Option<KeptPersona>>>,
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
        drop(self.changed.wait_timeout_while(hangs, PATIENCE, |hangs| *hangs).expect("whole"));
    }
}

impl Memory for Notebook {
    fn goals(&mut self) -> KeptGoals {
        self.goals.lock().expect("whole").clone()
    }

    fn keep_goals(&mut self, goals: &KeptGoals) -> std::io::Result<()> {
        self.disk.wait();
        if let Some(left) = self.fails.load(Relaxed).checked_sub(1) {
            self.fails.store(left, Relaxed);
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        *self.goals.lock().expect("whole") = goals.clone();
        Ok(())
    }

    fn persona(&mut self) -> Option<KeptPersona> {
        self.persona.lock().expect("whole").clone()
    }

    fn keep_persona(&mut self, persona: &KeptPersona) -> std::io::Result<()> {
        self.disk.wait();
        *self.persona.lock().expect("whole") = Some(persona.clone());
        Ok(())
    }
}

/// Runs a test in a house.
pub(super) fn in_house(test: impl AsyncFnOnce(&mut House)) {
    in_house_with(|_| None, |_| true, test);
}

pub(super) fn in_house_with(
    tcp: impl FnOnce(&std::path::Path) -> Option<TcpDoor>,
    may_enter: fn(u32) -> bool,
    test: impl AsyncFnOnce(&mut House),
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let tcp = tcp(folder.path());
    runtime.block_on(LocalSet::new().run_until(async move {
        let control = codexd_protocol::unix::bind(&folder.path().join("control")).expect("bound");
        let (tell, seen) = mpsc::unbounded_channel();
        let script = Rc::new(RefCell::new(Script::default()));
        let memory = Notebook::default();
        let brain = Box::new(Scripted { seen: tell, script: Rc::clone(&script) });
        let writer = StateWriter::start().expect("a thread");
        let driver = Driver::new(brain, Box::new(memory.clone()), writer);
        let (host, host_events) = mpsc::channel(8);
        let (host_orders, orders) = mpsc::channel(8);
        let doors = Doors { control, tcp };
        let serving =
            spawn_local(super::serve(Rc::clone(&driver), doors, host_events, host_orders, may_enter));
        let mut house = House { folder, driver, script, memory, seen, host, orders, serving };
        test(&mut house).await;
    }));
}

pub(super) type Socket<S = UnixStream> = WebSocketStream<S>;

impl House {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What happened next.
    pub(super) async fn next(&mut self) -> Event {
        soon(self.seen.recv()).await.expect("the brain lives")
    }

    /// What happened next, in Rust's words.
    pub(super) async fn next_word(&mut self) -> String {
        format!("{:?}", self.next().await)
    }

    pub(super) fn nothing_happened(&mut self) {
        assert!(self.seen.try_recv().is_err());
    }

    /// Has the brain want something.
    pub(super) async fn act(&mut self, actions: Vec<Action>) {
        self.script.borrow_mut().next = actions;
        self.driver.feed(Event::DeadlineReached);
        assert!(matches!(self.next().await, Event::DeadlineReached));
    }

    pub(super) async fn raw_client(&self) -> UnixStream {
        UnixStream::connect(self.path("control")).await.expect("connected")
    }

    /// A client that has shaken hands and has come.
    pub(super) async fn client(&mut self) -> (ClientId, Socket) {
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let stream = self.raw_client().await;
        let (socket, response) =
            soon(tokio_tungstenite::client_async_with_config("ws://localhost/rpc", stream, Some(config)))
                .await
                .expect("shaken hands");
        assert_eq!(response.headers()["x-codex-websocket-max-unfragmented-message-bytes"], "16777216");
        let Event::ClientConnected(client) = self.next().await else { panic!("a client came") };
        (client, socket)
    }

    pub(super) async fn tell_host_event(&self, event: HostEvent) {
        self.host.send(event).await.expect("it listens");
    }

    pub(super) async fn generations(&self, list: &[(&str, Role)]) {
        let list = list.iter().map(|(mark, role)| Generation {
            mark: (*mark).to_owned(),
            pid: 1,
            socket: self.path(mark),
            role: *role,
        });
        self.tell_host_event(HostEvent::Generations(list.collect())).await;
    }

    pub(super) async fn leave(&mut self) {
        self.tell_host_event(HostEvent::Leave).await;
        soon(&mut self.serving).await.expect("no panic").expect("it left");
    }

    pub(super) async fn order(&mut self) -> HostOrder {
        soon(self.orders.recv()).await.expect("it lives")
    }

    pub(super) fn app_server(&self, mark: &str) -> UnixListener {
        UnixListener::bind(self.path(mark)).expect("bound")
    }
}

/// An app-server's end of a link, after the handshake.
pub(super) async fn accept(listener: &UnixListener) -> Socket {
    let (stream, _) = soon(listener.accept()).await.expect("accepted");
    soon(tokio_tungstenite::accept_async(stream)).await.expect("shaken hands")
}

pub(super) async fn say(socket: &mut Socket, text: &str) {
    soon(socket.send(Message::text(text))).await.expect("sent");
}

/// The next text, or `close <code> <reason>`, or `gone`.
pub(super) async fn hear<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>) -> String {
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
