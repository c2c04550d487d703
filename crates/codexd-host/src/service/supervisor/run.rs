//! The supervisor's loop: wait for an event, pass it to the state machine, perform the actions, write the state.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use codexd_core::contract::EventLevel;
use codexd_core::generations::{self, Generations, Name, Standing};
use codexd_core::limits::LOG_CHECK_INTERVAL_MS;
use rustix::event::{PollFd, PollFlags};

use super::Supervisor;
use super::child_commands::ChildCommands;
use super::clients::Clients;
use super::foreground::{Foreground, ServiceOptions};
use super::framing;
use super::launches::Launches;
use super::memory_ceiling::MemoryCheck;
use super::signals::Signals;
use super::sockets::ListenerSearch;
use super::spawner::{Spawner, Units};
use super::standalone::StandaloneOptions;
use super::state::{self, SupervisorState};
use super::state_reports::PublishedState;
use super::supervisor_socket;
use super::sweeps::Sweeps;
use super::thread_settings::ThreadSettings;
use super::watches::Watches;
use super::wire::{Refusal, Report};
use crate::events::{Event as LogEvent, EventLog};
use crate::home::Home;
use crate::process_context::{self, Unchanged};
use crate::{clock, cloexec, lock, process, upstream_files};

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Another one holds the lock.
    #[error("another supervisor manages this home")]
    AlreadyManaged,
    /// An operation of the system failed.
    #[error("failed to {0}: {1}")]
    System(&'static str, #[source] io::Error),
}

/// An event that wakes the supervisor.
#[derive(Debug)]
enum Event {
    /// A signal arrived.
    Signalled,
    /// A command wants to connect.
    CommandConnecting,
    /// The client with this index has sent something or disconnected.
    CommandSent(usize),
    /// A managed process exited.
    Ended(Name),
    /// The wrapper of an app-server exited.
    WrapperEnded(Name),
    /// A folder of a missing program changed.
    ProgramsChanged,
    /// An orphan exited.
    OrphanEnded,
    /// systemd has answered the request to start one of the processes.
    LaunchCallEnded(Name),
    /// A command that the supervisor runs has ended.
    CommandEnded(usize),
    /// The connection of the supervisor to itself was answered.
    RoundTripEnded,
    /// A log has grown.
    LogsGrew,
    /// The folder of the control socket changed, or the state folder was removed.
    FolderChanged,
    /// A deadline has passed.
    DeadlinePassed,
}

/// What runs the supervisor.
#[derive(Debug)]
pub enum RunBy {
    /// A command has started it, and waits at the other end of this connection, if there is one.
    Command(Option<UnixStream>),
    /// systemd runs it, and every process of the home as a unit.
    Systemd(ServiceOptions),
    /// It runs in a terminal or a container, and ends the processes of the home with itself.
    Standalone(StandaloneOptions),
}

/// Manages the processes of `home` until none is left; answers the exit code.
///
/// # Errors
/// The supervisor could not start, or its loop failed.
pub fn run(home: Home, version: &str, by: RunBy) -> Result<u8, SupervisorError> {
    let (mut first, by) = match by {
        RunBy::Command(first) => (first, RunBy::Command(None)),
        other => (None, other),
    };
    let result = serve(home, version, &mut first, by);
    if let (Err(failure @ SupervisorError::System(_, error)), Some(mut stream)) = (&result, first) {
        let (message, errno) = (failure.to_string(), error.raw_os_error());
        let line = framing::line(&Report::Refused(Refusal { message, errno })).unwrap_or_default();
        // The command may have exited.
        let _ = stream.write_all(&line);
    }
    result
}

fn serve(
    home: Home,
    version: &str,
    first: &mut Option<UnixStream>,
    by: RunBy,
) -> Result<u8, SupervisorError> {
    let failed = |what| move |error| SupervisorError::System(what, error);
    let mut supervisor = start(home, version, matches!(by, RunBy::Systemd(_)))?;
    if let Some(stream) = first.take() {
        let greeting = supervisor.greeting();
        supervisor.clients.add_first(stream, &greeting).map_err(failed("answer the first command"))?;
    }
    match by {
        RunBy::Command(_) => {}
        RunBy::Systemd(service) => {
            supervisor.serve_systemd(service).map_err(failed("take over the control socket"))?;
        }
        RunBy::Standalone(options) => supervisor.serve_standalone(options),
    }
    while !supervisor.has_left {
        for event in supervisor.wait().map_err(failed("wait for events"))? {
            supervisor.on(event);
        }
    }
    let exit_code = match supervisor.standalone() {
        Some(_) => supervisor.conclude_standalone(),
        None => supervisor.foreground.as_ref().map_or(0, Foreground::exit_code),
    };
    if let Some(foreground) = supervisor.foreground.as_mut() {
        foreground.leaves();
    }
    supervisor.commands.kill_all_but(None);
    // Closing its descriptors takes long, and no process waits for that: see `watches`.
    std::mem::forget(supervisor);
    Ok(exit_code)
}

/// The supervisor, which holds the lock of the home and listens for orders.
fn start(home: Home, version: &str, has_units: bool) -> Result<Supervisor, SupervisorError> {
    let failed = |what| move |error| SupervisorError::System(what, error);
    cloexec::set_cloexec_above_stderr();
    let unchanged = process_context::normalize();
    home.create_state().map_err(failed("create the state folder"))?;
    let lock =
        lock::try_supervisor_lock(&home.supervisor_lock()).map_err(failed("open the supervisor's lock"))?;
    let lock = lock.ok_or(SupervisorError::AlreadyManaged)?;
    // Orphaned tools of the app-server become children of this process, which reaps them.
    let me = process::myself().map_err(failed("read /proc"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| SupervisorError::System("become a subreaper", error.into()))?;
    let signals = Signals::catch().map_err(failed("catch signals"))?;
    let listener = supervisor_socket::listen(&home).map_err(failed("listen for orders"))?;
    let watches = Watches::new().map_err(failed("watch files"))?;
    upstream_files::rename_older_logs(&home);
    let previous = state::read(&home);
    let mut state = SupervisorState::new(me.clone(), version);
    if let Some(previous) = state::read_of_any_namespace(&home) {
        (state.last_exit, state.last_instance) = (previous.last_exit, previous.last_instance);
    }
    let seed = me.identity.start_ticks ^ u64::from(me.pid.0).rotate_left(32);
    let supervisor = Supervisor {
        log: EventLog::new(home.events()),
        spawner: if has_units { Spawner::Units(Units::of(&home)) } else { Spawner::Fork },
        home,
        listener,
        signals,
        watches,
        clients: Clients::default(),
        machine: Generations::new(seed),
        table: Vec::new(),
        control_listener: None,
        published: PublishedState::default(),
        inherited: false,
        state,
        previous,
        orphaned: false,
        accept_paused_until: None,
        state_removed_until: None,
        listeners: ListenerSearch::default(),
        thread_settings: ThreadSettings::default(),
        sweeps: Sweeps::default(),
        launches: Launches::default(),
        unreachable_gateway: None,
        foreground: None,
        codexd: std::env::current_exe().unwrap_or_default(),
        commands: ChildCommands::default(),
        memory_check: MemoryCheck::default(),
        give_up: false,
        has_left: false,
        lock,
    };
    supervisor.log_event(
        LogEvent::new(EventLevel::Info, "daemon.started", "the supervisor started").with("pid", me.pid.0),
    );
    for attribute in unchanged {
        supervisor.log_event(not_normalized(&attribute));
    }
    Ok(supervisor)
}

/// The event for an attribute that all started processes inherit from the caller.
fn not_normalized(unchanged: &Unchanged) -> LogEvent {
    let Unchanged { attribute, error } = unchanged;
    let message =
        format!("failed to reset the {attribute} inherited from the command that started codexd: {error}");
    LogEvent::new(EventLevel::Warn, "context.inherited", message).with("attribute", *attribute)
}

impl Supervisor {
    fn wait(&mut self) -> io::Result<Vec<Event>> {
        let fds = [
            self.signals.fds().into_iter().map(|fd| (fd, Event::Signalled)).collect::<Vec<_>>(),
            (self.accept_paused_until.is_none().then(|| (self.listener.as_fd(), Event::CommandConnecting)))
                .into_iter()
                .collect(),
            self.table
                .iter()
                .filter_map(|managed| Some((managed.server.as_ref()?.fd(), Event::Ended(managed.name))))
                .collect(),
            self.table
                .iter()
                .filter_map(|managed| {
                    Some((managed.server.as_ref()?.wrapper.as_ref()?.fd(), Event::WrapperEnded(managed.name)))
                })
                .collect(),
            self.watches.programs_fd().into_iter().map(|fd| (fd, Event::ProgramsChanged)).collect(),
            self.sweeps.fds().map(|fd| (fd, Event::OrphanEnded)).collect(),
            self.launches.fds().map(|(fd, name)| (fd, Event::LaunchCallEnded(name))).collect(),
            self.commands.fds().map(|(index, fd)| (fd, Event::CommandEnded(index))).collect(),
            (self.foreground.as_ref().and_then(Foreground::round_trip_fd))
                .map(|fd| (fd, Event::RoundTripEnded))
                .into_iter()
                .collect(),
            self.watches.logs_fd().into_iter().map(|fd| (fd, Event::LogsGrew)).collect(),
            vec![(self.watches.folder_fd(), Event::FolderChanged)],
            // Handled from the last to the first, so that a removal does not shift the indices of the others.
            self.clients.fds().enumerate().map(|(index, fd)| (fd, Event::CommandSent(index))).collect(),
        ];
        let waits: Vec<(BorrowedFd<'_>, Event)> = fds.into_iter().flatten().collect();
        let mut polled: Vec<PollFd<'_>> =
            waits.iter().map(|(fd, _)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let deadline = [
            self.machine.deadline(),
            self.watches.deadline(),
            self.accept_paused_until,
            self.state_removed_until,
            self.listeners.deadline(),
            self.clients.deadline(),
            self.sweeps.deadline(),
            self.launches.deadline(),
            self.foreground.as_ref().and_then(Foreground::deadline),
            self.memory_check.deadline(),
        ];
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
            events.push(Event::DeadlinePassed);
        }
        events.sort_by_key(order_within_a_wakeup);
        Ok(events)
    }

    fn on(&mut self, event: Event) {
        // This log line itself makes a watched log grow.
        if !matches!(event, Event::LogsGrew | Event::DeadlinePassed) {
            tracing::debug!(?event, standing = ?self.machine.standing(), "event");
        }
        match event {
            Event::Signalled => self.signalled(),
            Event::Ended(name) => self.ended(name),
            Event::WrapperEnded(name) => self.wrapper_ended(name),
            Event::ProgramsChanged => self.check_missing_programs(),
            Event::OrphanEnded => self.advance_sweeps(),
            Event::LaunchCallEnded(name) => self.on_launch_call_ended(name),
            Event::CommandEnded(index) => self.on_command_ended(index),
            Event::RoundTripEnded => self.on_round_trip(),
            Event::LogsGrew => self.watches.check_logs(&self.home, clock::monotonic()),
            Event::FolderChanged => {
                self.watches.take_folder();
                self.check_ownership();
                self.check_supervisor_socket();
                if let Some(control_listener) = &self.control_listener {
                    control_listener.restore_path();
                }
                self.listeners.begin(clock::monotonic());
                self.check_sockets();
                self.clients.broadcast(&Report::SocketFolderChanged);
            }
            Event::CommandConnecting => {
                self.listeners.begin(clock::monotonic());
                self.check_sockets();
                let greeting = self.greeting();
                // With too many open files the listening socket would stay readable.
                if self.clients.accept(&self.listener, &greeting).is_err() {
                    self.accept_paused_until = Some(clock::monotonic() + LOG_CHECK_INTERVAL_MS);
                }
            }
            Event::CommandSent(index) => self.receive(index),
            Event::DeadlinePassed => {
                let now = clock::monotonic();
                self.accept_paused_until = self.accept_paused_until.filter(|&until| now < until);
                self.watches.check_logs(&self.home, clock::monotonic());
                self.restore_state_folder();
                self.clients.end_overdue(now);
                if self.listeners.is_due(now) {
                    self.check_sockets();
                }
                if self.sweeps.deadline().is_some_and(|at| at <= now) {
                    self.advance_sweeps();
                }
                self.end_overdue_launches();
                self.check_foreground(now);
                self.check_memory(now);
                self.feed(generations::Event::Ticked);
            }
        }
    }

    /// Exits if the command that started this supervisor has exited without an order. The state of the previous supervisor stays.
    pub(super) fn leave_if_unused(&mut self) {
        let manages_a_process = self.table.iter().any(|managed| managed.server.is_some());
        if !self.has_left
            && !manages_a_process
            && self.sweeps.is_empty()
            && self.clients.has_no_commands()
            && self.foreground.is_none()
            && self.machine.standing() == Standing::Idle
        {
            self.has_left = true;
            let _ = std::fs::remove_file(self.home.supervisor_socket());
            self.log_event(LogEvent::new(
                EventLevel::Info,
                "daemon.stopped",
                "the supervisor exited: it received no order",
            ));
        }
    }
}

/// Exits before orders: a command gives its order according to what it has seen. Later clients before earlier ones: see
/// [`Supervisor::wait`].
fn order_within_a_wakeup(event: &Event) -> (u8, std::cmp::Reverse<usize>) {
    let rank = match event {
        Event::Ended(_) => 0,
        Event::WrapperEnded(_) => 0,
        Event::OrphanEnded | Event::Signalled | Event::LaunchCallEnded(_) => 1,
        Event::CommandEnded(index) => return (1, std::cmp::Reverse(*index)),
        Event::RoundTripEnded => 1,
        Event::CommandSent(index) => return (2, std::cmp::Reverse(*index)),
        Event::CommandConnecting => 3,
        Event::FolderChanged | Event::ProgramsChanged => 4,
        Event::LogsGrew => 5,
        Event::DeadlinePassed => 6,
    };
    (rank, std::cmp::Reverse(0))
}
