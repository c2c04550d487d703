//! Starting processes as units of systemd.
//!
//! The supervisor asks systemd to start a unit. The process of that unit, `codexd launch`, connects here, gets the program that it is to
//! run, and becomes it by exec(2), which closes the connection. From its number, which does not change, the supervisor knows it. A unit of
//! an app-server has a number that is never used again, so a process that comes too late is not taken for another one.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use codexd_core::clock::Monotonic;
use codexd_core::generations::{Event, Name};
use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::limits::{LAUNCH_CANCEL_TIMEOUT_MS, LAUNCH_TIMEOUT_MS};
use codexd_core::supervise;
use rustix::process::Signal;

use super::Supervisor;
use super::clients::ClientId;
use super::launch_plan::LaunchPlan;
use super::server::{LaunchedProcess, Server};
use super::spawner::ProcessUnit;
use super::wire::{LaunchedUnit, Refusal, Report};
use crate::service::systemd::systemctl::Call;
use crate::{clock, process};

/// A process that systemd was asked to start.
#[derive(Debug)]
struct Launch {
    name: Name,
    of: LaunchedUnit,
    unit: String,
    generation: Option<String>,
    program: LaunchSpec,
    plan: LaunchPlan,
    /// How long the log of errors was before.
    stderr_from: u64,
    /// The request to systemd, until it is answered.
    call: Option<Call>,
    /// The process, once it has its program.
    launcher: Option<Launcher>,
    until: Monotonic,
}

/// A process that is about to become its program.
#[derive(Debug)]
struct Launcher {
    client: ClientId,
    process: Process,
    handle: OwnedFd,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Launches {
    of: Vec<Launch>,
    /// Processes of the unit of the gateway that came before the supervisor knew that the gateway is to be started: systemd was asked by
    /// another to restart the unit.
    early: Vec<(ClientId, Monotonic)>,
}

impl Launches {
    /// What to wait on for answers of systemd.
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Name)> {
        self.of.iter().filter_map(|launch| Some((launch.call.as_ref()?.fd()?, launch.name)))
    }

    pub fn deadline(&self) -> Option<Monotonic> {
        let early = self.early.iter().map(|&(_, until)| until);
        self.of.iter().map(|launch| launch.until).chain(early).min()
    }

    /// The requests to systemd, which are children of this process.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.of.iter().filter_map(|launch| launch.call.as_ref().map(Call::pid))
    }

    fn position(&self, is_meant: impl Fn(&Launch) -> bool) -> Option<usize> {
        self.of.iter().position(is_meant)
    }
}

impl Supervisor {
    /// Asks systemd to start a process. What comes of it is an event.
    pub(super) fn launch(
        &mut self,
        name: Name,
        program: LaunchSpec,
        generation: Option<String>,
    ) -> io::Result<()> {
        let Some(units) = self.spawner.units() else { return Err(ErrorKind::Unsupported.into()) };
        let (of, unit) = match name {
            Name::Gateway => (LaunchedUnit::Gateway, units.names.gateway()),
            Name::Generation(_) => {
                let instance = self.state.last_instance;
                (LaunchedUnit::AppServer(instance), units.names.app_server(instance))
            }
        };
        let (plan, stderr_from) = match &generation {
            Some(generation) => LaunchPlan::app_server(&self.home, &program, generation)?,
            None => LaunchPlan::gateway(&self.home, &program)?,
        };
        let early = (name == Name::Gateway).then(|| self.launches.early.pop()).flatten();
        let call = if early.is_some() { None } else { Some(units.systemctl.begin(&["start", "--", &unit])?) };
        self.launches.of.push(Launch {
            name,
            of,
            unit,
            generation,
            program,
            plan,
            stderr_from,
            call,
            launcher: None,
            until: clock::monotonic() + LAUNCH_TIMEOUT_MS,
        });
        self.feed(Event::Of(name, supervise::Event::Launching));
        if let Some((client, _)) = early {
            self.give_plan(name, client);
        }
        Ok(())
    }

    /// The process of a unit asks what it is to run.
    pub(super) fn on_launcher(&mut self, from: ClientId, unit: LaunchedUnit) -> Result<(), Refusal> {
        let waits = |launch: &Launch| launch.of == unit && launch.launcher.is_none();
        match self.launches.position(waits) {
            Some(at) => self.give_plan(self.launches.of[at].name, from),
            None if unit == LaunchedUnit::Gateway && self.spawner.units().is_some() => {
                self.launches.early.push((from, clock::monotonic() + LAUNCH_TIMEOUT_MS));
            }
            None => {
                return Err(Refusal::new("this unit has nothing to run: the supervisor did not start it"));
            }
        }
        Ok(())
    }

    fn give_plan(&mut self, name: Name, client: ClientId) {
        let Some(at) = self.launches.position(|launch| launch.name == name) else { return };
        match self.try_to_give_plan(at, client) {
            Ok(launcher) => {
                self.launches.of[at].launcher = Some(launcher);
                // It has begun, whatever systemd answers: what happens next happens on the connection.
                self.launches.of[at].call = None;
            }
            Err(error) => {
                self.end_launch_with(at, &error);
            }
        }
    }

    fn try_to_give_plan(&mut self, at: usize, client: ClientId) -> io::Result<Launcher> {
        let pid = self.clients.pid(client).ok_or(ErrorKind::NotConnected)?;
        let process = process::identify(pid)?;
        let handle = process::open(&process)?;
        let plan = self.launches.of[at].plan.to_memory_file()?;
        let mut files = vec![plan.as_fd()];
        if self.launches.of[at].name == Name::Gateway {
            let listener = self.control_listener.as_ref().ok_or(ErrorKind::NotConnected)?;
            files.push(listener.fd());
        }
        self.clients.send_with_files(client, &Report::LaunchPlan, &files)?;
        Ok(Launcher { client, process, handle })
    }

    /// The process of a unit cannot run its program.
    pub(super) fn on_launch_failed(&mut self, from: ClientId, message: String, errno: Option<i32>) {
        let is_of =
            |launch: &Launch| launch.launcher.as_ref().is_some_and(|launcher| launcher.client == from);
        let Some(at) = self.launches.position(is_of) else { return };
        let error = errno.map_or_else(|| io::Error::other(message), io::Error::from_raw_os_error);
        self.end_launch_with(at, &error);
    }

    /// The connection of a process that had its program is closed: it runs that program.
    pub(super) fn on_launcher_left(&mut self, client: ClientId) {
        self.launches.early.retain(|&(early, _)| early != client);
        let is_of =
            |launch: &Launch| launch.launcher.as_ref().is_some_and(|launcher| launcher.client == client);
        let Some(at) = self.launches.position(is_of) else { return };
        let Launch { name, unit, generation, program, plan, stderr_from, launcher, .. } =
            self.launches.of.remove(at);
        let Some(Launcher { process, handle, .. }) = launcher else { return };
        let unit = ProcessUnit { name: unit, main: process.pid };
        let launched =
            LaunchedProcess { process, handle, generation, stderr: plan.stderr, stderr_from, unit };
        self.spawned(name, Server::launched(launched, &program), &program);
    }

    /// systemd has answered the request to start a unit.
    pub(super) fn on_launch_call_ended(&mut self, name: Name) {
        let Some(at) = self.launches.position(|launch| launch.name == name) else { return };
        let Some(call) = self.launches.of[at].call.take() else { return };
        if let Err(error) = call.finish(Duration::ZERO) {
            let state = self.spawner.units().map(|units| units.describe(&self.launches.of[at].unit));
            let message = format!("{error}; {}", state.unwrap_or_default());
            self.end_launch_with(at, &io::Error::other(message));
        }
    }

    /// The process is not wanted any more. One that has its program already is about to run it: its end is the next request.
    pub(super) fn cancel_launch(&mut self, name: Name) {
        let Some(at) = self.launches.position(|launch| launch.name == name) else { return };
        if self.launches.of[at].launcher.is_some() {
            self.launches.of[at].until = clock::monotonic() + LAUNCH_CANCEL_TIMEOUT_MS;
            return;
        }
        let launch = self.launches.of.remove(at);
        if let Some(units) = self.spawner.units() {
            units.stop(&launch.unit);
        }
        self.feed(Event::Of(name, supervise::Event::SpawnFailed));
    }

    /// Gives up what takes too long.
    pub(super) fn end_overdue_launches(&mut self) {
        let now = clock::monotonic();
        let is_early_over = |&&(_, until): &&(ClientId, Monotonic)| until <= now;
        let late: Vec<ClientId> =
            self.launches.early.iter().filter(is_early_over).map(|&(client, _)| client).collect();
        self.launches.early.retain(|&(_, until)| until > now);
        for client in late {
            // Its process ends with the connection.
            self.clients.disconnect(client);
        }
        while let Some(at) = self.launches.position(|launch| launch.until <= now) {
            let unit = self.launches.of[at].unit.clone();
            let state = self.spawner.units().map(|units| units.describe(&unit)).unwrap_or_default();
            let message = format!("its process did not run it within {LAUNCH_TIMEOUT_MS} ms; {state}");
            self.end_launch_with(at, &io::Error::new(ErrorKind::TimedOut, message));
        }
    }

    fn end_launch_with(&mut self, at: usize, error: &io::Error) {
        let launch = self.launches.of.remove(at);
        if let Some(launcher) = &launch.launcher {
            let _ = rustix::process::pidfd_send_signal(&launcher.handle, Signal::KILL);
        }
        if let Some(units) = self.spawner.units() {
            units.stop(&launch.unit);
            units.forget(&launch.unit);
        }
        self.report_failed_spawn(launch.name, &launch.program, error);
    }
}
