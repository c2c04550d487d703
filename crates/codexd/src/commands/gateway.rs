//! `codexd gateway`: what clients connect to, in front of the app-server. Internal: the supervisor starts it, with the listening
//! socket in its hands.

mod state_files;
mod supervisor_connect;
mod supervisor_session;
mod thread_settings;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use codexd_core::contract::ErrorCode;
use codexd_core::limits::CONTROL_BACKLOG;
use codexd_core::settings::SubagentApprovals;
use codexd_gateway::host::{Listeners, TcpListenerConfig};
use codexd_gateway::state_writer::StateWriter;
use codexd_host::{Home, gateway_process};
use listenfd::ListenFd;
use tokio::sync::mpsc;

use crate::{gateway_program, output};

/// So many messages may be on their way between the gateway and its host.
const MESSAGES_IN_FLIGHT_MAX: usize = 64;

/// How long what is still to be written may take when the gateway leaves.
const LAST_WRITES_WITHIN: Duration = Duration::from_millis(500);

/// What the gateway was told on its command line.
#[derive(Clone, Debug)]
pub struct Arguments {
    home: Home,
    listen: Option<SocketAddr>,
    subagent_approvals: SubagentApprovals,
}

/// Reads the arguments, if they are those of a gateway: `codexd gateway --codex-home PATH [--listen ADDRESS]
/// [--subagent-approvals viewers|all]` to the letter. Only codexd itself writes them.
pub fn arguments(arguments: impl IntoIterator<Item = OsString>) -> Option<Arguments> {
    let arguments: Vec<OsString> = arguments.into_iter().skip(1).collect();
    let ([command, option, home], rest) = arguments.split_first_chunk()?;
    if [command, option] != gateway_process::ARGUMENTS {
        return None;
    }
    let home = Home::new(PathBuf::from(home));
    let mut parsed = Arguments { home, listen: None, subagent_approvals: SubagentApprovals::default() };
    for option in rest.chunks(2) {
        let [option, value] = option else { return None };
        let value = value.to_str()?;
        match option.to_str()? {
            gateway_program::LISTEN => parsed.listen = Some(value.parse().ok()?),
            gateway_program::SUBAGENT_APPROVALS => {
                parsed.subagent_approvals = SubagentApprovals::from_word(value)?;
            }
            _ => return None,
        }
    }
    Some(parsed)
}

impl Arguments {
    /// The listener for the network, if there is to be one.
    fn tcp(&self) -> Option<TcpListenerConfig> {
        self.listen.map(|listen| TcpListenerConfig { listen, token_file: self.home.gateway_token() })
    }
}

/// Serves until the supervisor asks it to leave.
pub fn run(arguments: &Arguments) -> ExitCode {
    crate::diagnostics::log_to_stderr();
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("the gateway failed: {error}"));
            ExitCode::from(ErrorCode::Internal.exit_code())
        }
    }
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    let control = inherited_listener()?;
    let listener = control.try_clone()?;
    let tcp = arguments.tcp();
    let memory = Box::new(state_files::StateFiles::new(arguments.home.clone()));
    let state_writer = StateWriter::start()?;
    let writing = state_writer.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let (events, host_events) = mpsc::channel(MESSAGES_IN_FLIGHT_MAX);
        let (host_commands, orders) = mpsc::channel(MESSAGES_IN_FLIGHT_MAX);
        let session = supervisor_session::SupervisorSession::new(
            arguments.clone(),
            listener,
            writing.clone(),
            events,
            orders,
        )?;
        let session = tokio::spawn(session.run());
        let approvals = arguments.subagent_approvals;
        let listeners = Listeners { control, tcp };
        let served =
            codexd_gateway::run(listeners, approvals, memory, writing, host_events, host_commands).await;
        session.abort();
        served
    });
    state_writer.finish(LAST_WRITES_WITHIN);
    // Whoever still waits for a supervisor is not waited for.
    runtime.shutdown_background();
    served
}

/// The listening socket. Clients are told from now on that it is this process who listens.
fn inherited_listener() -> io::Result<UnixListener> {
    let listener = ListenFd::from_env().take_unix_listener(0)?.ok_or_else(|| {
        io::Error::other(
            "no listening socket was inherited; use `codexd start` instead of running the gateway directly",
        )
    })?;
    rustix::net::listen(&listener, CONTROL_BACKLOG)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::arguments;
    use codexd_core::settings::SubagentApprovals;

    #[test]
    fn only_its_own_arguments_make_a_gateway() {
        let read = |words: &[&str]| arguments(words.iter().map(Into::into));
        let plain = read(&["codexd", "gateway", "--codex-home", "/h"]).expect("its arguments");
        assert!(plain.listen.is_none());
        let listening = read(&["codexd", "gateway", "--codex-home", "/h", "--listen", "127.0.0.1:1"]);
        assert!(listening.is_some_and(|listening| listening.listen.is_some()));
        let all = read(&["codexd", "gateway", "--codex-home", "/h", "--subagent-approvals", "all"]);
        assert!(all.is_some_and(|all| all.subagent_approvals == SubagentApprovals::All));
        for other in [
            &["codexd", "gateway"][..],
            &["codexd", "gateway", "--help"],
            &["codexd", "gateway", "--codex-home", "/h", "--listen"],
            &["codexd", "gateway", "--codex-home", "/h", "--listen", "x"],
            &["codexd", "gateway", "--codex-home", "/h", "--subagent-approvals", "some"],
            &["codexd", "supervisor", "--codex-home", "/h"],
        ] {
            assert!(read(other).is_none(), "{other:?}");
        }
    }
}
