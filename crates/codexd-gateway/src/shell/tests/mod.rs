//! The shell around a brain that does what the test says, on real sockets.

mod clients;
mod links;
mod tcp;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
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
        out.append(&mut script.next);
        if let Some(reply) = script.reply {
            out.append(&mut reply(&event));
        }
        if matches!(event, Event::TimeCame) {
            script.deadline = None;
        }
        let text = matches!(event, Event::ClientSaid(..) | Event::LinkSaid(..));
        script.texts += usize::from(text);
        if !(text && script.quiet) {
            self.seen.send(event).expect("the test listens");
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        self.script.borrow().deadline
    }

    fn wants_to_hear(&self, _: ClientId) -> bool {
        !self.script.borrow().deaf
    }

    fn take_resumed(&mut self, resumed: &mut Vec<ClientId>) {
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
    pub(super) goals: Rc<RefCell<KeptGoals>>,
    /// So often goals cannot be kept.
    pub(super) fails: Rc<Cell<u32>>,
    pub(super) persona: Rc<RefCell<Option<KeptPersona>>>,
}

impl Memory for Notebook {
    fn goals(&mut self) -> KeptGoals {
        self.goals.borrow().clone()
    }

    fn keep_goals(&mut self, goals: &KeptGoals) -> std::io::Result<()> {
        if let Some(left) = self.fails.get().checked_sub(1) {
            self.fails.set(left);
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        *self.goals.borrow_mut() = goals.clone();
        Ok(())
    }

    fn persona(&mut self) -> Option<KeptPersona> {
        self.persona.borrow().clone()
    }

    fn keep_persona(&mut self, persona: &KeptPersona) -> std::io::Result<()> {
        *self.persona.borrow_mut() = Some(persona.clone());
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
        let driver = Driver::new(brain, Box::new(memory.clone()));
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
        self.driver.feed(Event::TimeCame);
        assert!(matches!(self.next().await, Event::TimeCame));
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
        let Event::ClientCame(client) = self.next().await else { panic!("a client came") };
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

#[test]
fn goals_are_remembered_and_told_to_the_next_brain() {
    in_house(async |house| {
        let kept = KeptGoals { active: vec!["a".into(), "b".into()], held: vec!["b".into()] };
        house.act(vec![Action::KeepGoals(kept.clone())]).await;
        assert_eq!(*house.memory.goals.borrow(), kept);
        house.driver.remember();
        let Event::GoalsKept(goals) = house.next().await else { panic!("the goals") };
        assert_eq!(goals, kept);
    });
}

#[test]
fn goals_that_could_not_be_kept_are_kept_as_soon_as_they_can_be() {
    in_house(async |house| {
        let now = KeptGoals { active: vec!["b".into()], held: Vec::new() };
        house.memory.fails.set(3);
        house.act(vec![Action::KeepGoals(KeptGoals::default()), Action::KeepGoals(now.clone())]).await;
        let Some(HostOrder::Note { kind, .. }) = house.orders.recv().await else { panic!("a word of it") };
        assert_eq!(kind, "goals.forgotten");
        let kept = async {
            while *house.memory.goals.borrow() != now {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(30), kept).await.expect("kept at last");
    });
}

#[test]
fn a_persona_is_told_to_the_next_brain_if_somebody_knows_it_or_goals_are_to_go_on() {
    let none = KeptGoals::default();
    let kept = in_house_that_keeps(None, &none, async |house| {
        house.generations(&[("g1", Role::Current)]).await;
        assert!(house.next_word().await.starts_with("Servers"));
        house.act(vec![Action::KeepPersona("me".into())]).await;
        assert_eq!(house.memory.persona.borrow().as_ref().expect("kept").known_to, ["g1"]);
        house.generations(&[("g2", Role::Current), ("g1", Role::Outgoing)]).await;
        assert!(house.next_word().await.starts_with("Servers"));
    });
    let known_to = vec!["g1".to_owned(), "g2".to_owned()];
    assert_eq!(kept, Some(KeptPersona { introduction: "me".into(), known_to }));
    let some = KeptGoals { active: vec!["a".into()], ..KeptGoals::default() };
    for (living, goals, is_told) in [("g2", &none, true), ("g3", &none, false), ("g3", &some, true)] {
        in_house_that_keeps(kept.clone(), goals, async |house| {
            house.generations(&[(living, Role::Current)]).await;
            if !goals.is_empty() {
                assert!(matches!(house.next().await, Event::GoalsKept(kept) if kept == *goals));
            }
            if is_told {
                assert!(
                    matches!(house.next().await, Event::PersonaKept(persona) if persona.as_str() == "me")
                );
            }
            assert!(house.next_word().await.starts_with("Servers"));
            house.nothing_happened();
        });
    }
}

fn in_house_that_keeps(
    persona: Option<KeptPersona>,
    goals: &KeptGoals,
    test: impl AsyncFnOnce(&mut House),
) -> Option<KeptPersona> {
    let mut memory = Notebook::default();
    in_house(async |house| {
        house.memory.persona.replace(persona);
        house.memory.goals.replace(goals.clone());
        test(house).await;
        memory = house.memory.clone();
    });
    memory.persona.take()
}
