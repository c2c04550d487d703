//! The keeper's loop: wait for an event, ask the supervisor, do what it says, write down where things stand.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use codexd_core::clock::Monotonic;
use codexd_core::contract::EventLevel;
use codexd_core::identity::Process;
use codexd_core::limits::LOG_CHECK_INTERVAL_MS;
use codexd_core::program::Program;
use codexd_core::record::CodexdRecord;
use codexd_core::supervise::{self, Phase, Supervisor, Then};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{WaitId, WaitIdOptions};

use super::clients::{Clients, Said};
use super::server::{self, Server};
use super::signals::Signals;
use super::state::{self, KeeperState, StatePhase};
use super::watches::Watches;
use super::wire::{Order, Report};
use crate::events::{Event as LogEvent, EventLog};
use crate::home::Home;
use crate::strays::Ties;
use crate::{clock, fd_hygiene, lock, process};

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Another one holds the lock.
    #[error("another keeper keeps this home")]
    AlreadyKept,
    /// The system refused something.
    #[error("failed to {0}: {1}")]
    System(&'static str, io::Error),
}

/// Everything that can wake the keeper.
#[derive(Debug)]
enum Event {
    /// A signal came.
    Signalled,
    /// A verb wants to connect.
    VerbArrived,
    /// The verb of this number has spoken or left.
    VerbSpoke(usize),
    /// The server ended.
    ServerEnded,
    /// The server wrote to its logs.
    LogsGrew,
    /// Something changed beside the control socket.
    FolderChanged,
    /// A deadline has come.
    TimeCame,
}

pub(super) struct Keeper {
    pub(super) home: Home,
    pub(super) log: EventLog,
    pub(super) listener: UnixListener,
    pub(super) signals: Signals,
    pub(super) watches: Watches,
    pub(super) clients: Clients,
    pub(super) supervisor: Supervisor,
    pub(super) program: Option<Program>,
    pub(super) server: Option<Server>,
    /// What the server had started, looked up when it was signalled; for one that another keeper, or nobody, started.
    pub(super) descendants: Vec<Process>,
    pub(super) state: KeeperState,
    /// What the keeper before this one last wrote.
    pub(super) before: Option<KeeperState>,
    /// What leads to what the server that died last has left.
    pub(super) dead: Option<Ties>,
    /// Something of it could not be ended.
    pub(super) left_behind: bool,
    /// While nobody can be let in for want of descriptors: until when the door is not looked at.
    pub(super) deaf_until: Option<Monotonic>,
    pub(super) give_up: bool,
    pub(super) left: bool,
    pub(super) lock: File,
}

/// Keeps the server of `home` until there is nothing left to keep. `first` is the connection to the verb that started
/// the keeper, if one did.
///
/// # Errors
/// [`KeeperError::AlreadyKept`], or what the system refused before the keeper kept anything.
pub fn run(home: Home, version: &str, first: Option<UnixStream>) -> Result<(), KeeperError> {
    let failed = |what| move |error| KeeperError::System(what, error);
    fd_hygiene::close_on_exec_above_stderr();
    home.create_state().map_err(failed("make the state folder"))?;
    let lock = lock::try_keeper_lock(&home.keeper_lock()).map_err(failed("open the keeper's lock"))?;
    let lock = lock.ok_or(KeeperError::AlreadyKept)?;
    // What the server's tools leave behind becomes ours to reap.
    let me = process::myself().map_err(failed("read /proc"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| KeeperError::System("become a subreaper", error.into()))?;
    let signals = Signals::catch().map_err(failed("catch signals"))?;
    let listener = listen(&home).map_err(failed("listen for orders"))?;
    let watches = Watches::new().map_err(failed("watch files"))?;
    let before = state::read(&home);
    let mut state = KeeperState::new(me.clone(), version);
    state.last_exit = before.as_ref().and_then(|before| before.last_exit.clone());
    let seed = me.identity.start_ticks ^ u64::from(me.pid.0).rotate_left(32);
    let mut keeper = Keeper {
        log: EventLog::new(home.events()),
        home,
        listener,
        signals,
        watches,
        clients: Clients::default(),
        supervisor: Supervisor::new(seed),
        program: None,
        server: None,
        descendants: Vec::new(),
        state,
        before,
        dead: None,
        left_behind: false,
        deaf_until: None,
        give_up: false,
        left: false,
        lock,
    };
    keeper.note(LogEvent::new(EventLevel::Info, "daemon.started", "the keeper is up").with("pid", me.pid.0));
    if let Some(stream) = first {
        let greeting = keeper.standing();
        keeper.clients.add(stream, &greeting).map_err(failed("greet the first verb"))?;
    }
    while !keeper.left {
        for event in keeper.wait().map_err(failed("wait for events"))? {
            keeper.on(event);
        }
    }
    // What it still has open takes long to close, and nobody waits for that: see `watches`.
    std::mem::forget(keeper);
    Ok(())
}

/// The socket of a dead keeper is in the way; the lock says that no living one listens on it.
fn listen(home: &Home) -> io::Result<UnixListener> {
    let path = home.keeper_socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = codexd_protocol::unix::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Keeper {
    fn wait(&mut self) -> io::Result<Vec<Event>> {
        let fds = [
            self.signals.fds().into_iter().map(|fd| (fd, Event::Signalled)).collect::<Vec<_>>(),
            (self.deaf_until.is_none().then(|| (self.listener.as_fd(), Event::VerbArrived)))
                .into_iter()
                .collect(),
            self.server.iter().map(|server| (server.fd(), Event::ServerEnded)).collect(),
            self.watches.logs_fd().into_iter().map(|fd| (fd, Event::LogsGrew)).collect(),
            vec![(self.watches.folder_fd(), Event::FolderChanged)],
            // From the last to the first, so that letting one go does not shift the numbers of the others.
            self.clients.fds().enumerate().map(|(index, fd)| (fd, Event::VerbSpoke(index))).collect(),
        ];
        let waits: Vec<(BorrowedFd<'_>, Event)> = fds.into_iter().flatten().collect();
        let mut polled: Vec<PollFd<'_>> =
            waits.iter().map(|(fd, _)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let deadline = [self.supervisor.deadline(), self.watches.deadline(), self.deaf_until];
        let deadline = deadline.into_iter().flatten().min();
        let timeout = deadline.map(|at| at.since_ms(clock::monotonic()));
        let timeout = timeout.and_then(|ms| std::time::Duration::from_millis(ms).try_into().ok());
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut events: Vec<Event> =
            waits.into_iter().zip(ready).filter_map(|((_, event), ready)| ready.then_some(event)).collect();
        if deadline.is_some_and(|at| at <= clock::monotonic()) {
            events.push(Event::TimeCame);
        }
        events.sort_by_key(order_within_a_wakeup);
        Ok(events)
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Signalled => self.signalled(),
            Event::ServerEnded => self.server_ended(),
            Event::LogsGrew => self.watches.check_logs(&self.home, clock::monotonic()),
            Event::FolderChanged => {
                self.watches.take_folder();
                self.clients.tell(&Report::SocketFolderChanged);
            }
            Event::VerbArrived => {
                let greeting = self.standing();
                // A verb that is gone already is no trouble; with too many files open the door would never be quiet.
                if self.clients.accept(&self.listener, &greeting).is_err() {
                    self.deaf_until = Some(clock::monotonic() + LOG_CHECK_INTERVAL_MS);
                }
            }
            Event::VerbSpoke(index) => {
                for said in self.clients.hear(index) {
                    match said {
                        Said::Order(order) => self.obey(*order),
                        Said::Nonsense(message) => {
                            self.clients.tell(&Report::Refused { message, errno: None });
                        }
                    }
                }
                self.leave_if_forgotten();
            }
            Event::TimeCame => {
                let now = clock::monotonic();
                self.deaf_until = self.deaf_until.filter(|&until| now < until);
                self.watches.check_logs(&self.home, clock::monotonic());
                self.feed(supervise::Event::Ticked);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start { program } => {
                let runs = matches!(self.supervisor.phase(), Phase::Running { .. });
                if runs || self.may_begin() {
                    if !runs {
                        self.program = Some(*program);
                    }
                    self.feed(supervise::Event::StartRequested);
                }
            }
            Order::Replace { program, policy } => {
                // Before the old server is touched.
                if self.may_begin() {
                    self.program = Some(*program);
                    self.feed(supervise::Event::StopRequested(policy, Then::StartAgain));
                }
            }
            Order::Stop { policy, failed } => {
                self.give_up = failed;
                self.feed(supervise::Event::StopRequested(policy, Then::Leave));
            }
            Order::Adopt { process, codexd } => self.adopt(process, codexd),
        }
        if !self.left {
            let standing = self.standing();
            self.clients.tell(&standing);
        }
    }

    /// Whether the state can be written down, without which a new server could not be found again. If not, says so.
    fn may_begin(&mut self) -> bool {
        let phase = self.phase();
        match self.write_down(phase) {
            Ok(()) => true,
            Err(error) => {
                let path = self.home.keeper_state();
                let message = format!("the state cannot be kept in {}: {error}", path.display());
                self.clients.tell(&Report::Refused { message, errno: error.raw_os_error() });
                false
            }
        }
    }

    fn adopt(&mut self, process: Process, codexd: Option<CodexdRecord>) {
        if self.server.as_ref().is_some_and(|server| server.process == process) {
            return;
        }
        let adopted = server::program_of(&process, codexd.as_ref()).and_then(|program| {
            let generation = codexd.and_then(|record| record.generation);
            Ok((program, Server::adopt(&self.home, process.clone(), generation)?))
        });
        match adopted {
            Ok((program, server)) if self.server.is_none() => {
                let event =
                    LogEvent::new(EventLevel::Info, "child.adopted", "took over a running app-server")
                        .with("pid", process.pid.0);
                self.note(event);
                self.program = Some(program);
                self.took_in(server);
                self.feed(supervise::Event::Adopted);
                self.go_on_draining(&process);
            }
            Ok(_) => self
                .clients
                .tell(&Report::Refused { message: "another server is kept already".into(), errno: None }),
            Err(error) => {
                let message = format!("failed to take over process {}: {error}", process.pid);
                self.clients.tell(&Report::Refused { message, errno: error.raw_os_error() });
            }
        }
    }

    /// The keeper before us may have asked this very server to leave: it is not asked again, which would force it.
    fn go_on_draining(&mut self, process: &Process) {
        if let Some(KeeperState { phase: StatePhase::Stopping { then }, server: Some(server), .. }) =
            &self.before
            && server == process
        {
            self.feed(supervise::Event::FoundDraining(*then));
        }
    }

    /// The verb that started this keeper is gone before it said what for. What the keeper before has written stays.
    fn leave_if_forgotten(&mut self) {
        if !self.left && self.clients.is_empty() && self.supervisor.phase() == Phase::Idle {
            self.left = true;
            let _ = std::fs::remove_file(self.home.keeper_socket());
            self.note(LogEvent::new(EventLevel::Info, "daemon.stopped", "nobody said what to keep"));
        }
    }

    fn signalled(&mut self) {
        let signalled = self.signals.take();
        if signalled.child {
            self.reap_strays();
        }
        if signalled.leave {
            let message = "the keeper was asked to leave by a signal; the server goes on without it";
            self.note(LogEvent::new(EventLevel::Warn, "daemon.stopped", message));
            self.left = true;
        }
    }

    /// Reaps what the server's tools left to us, never the server itself: its end is told by its handle.
    pub(super) fn reap_strays(&self) {
        let server = self.server.as_ref().map(|server| server.process.pid);
        for pid in process::children().into_iter().filter(|&pid| Some(pid) != server) {
            if let Some(pid) = i32::try_from(pid.0).ok().and_then(rustix::process::Pid::from_raw) {
                let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                let _ = rustix::process::waitid(WaitId::Pid(pid), look);
            }
        }
    }
}

/// Ends before orders: an order is given on what the verb has seen. Later verbs before earlier ones: see [`Keeper::wait`].
fn order_within_a_wakeup(event: &Event) -> (u8, std::cmp::Reverse<usize>) {
    let rank = match event {
        Event::ServerEnded => 0,
        Event::Signalled => 1,
        Event::VerbSpoke(index) => return (2, std::cmp::Reverse(*index)),
        Event::VerbArrived => 3,
        Event::FolderChanged => 4,
        Event::LogsGrew => 5,
        Event::TimeCame => 6,
    };
    (rank, std::cmp::Reverse(0))
}
