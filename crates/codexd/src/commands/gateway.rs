//! `codexd gateway`: the process that clients connect to. Internal: the supervisor starts it, and it inherits the listening
//! control socket.

mod gateway_state;
mod state_files;
mod supervisor_connect;
mod supervisor_session;
mod thread_settings;

use std::io;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use codexd_core::contract::ErrorCode;
use codexd_core::limits::CONTROL_BACKLOG;
use codexd_gateway::host::{Listeners, TcpListenerConfig};
use codexd_gateway::state_writer::StateWriter;
use codexd_host::launch::gateway::Arguments;
use listenfd::ListenFd;
use tokio::sync::mpsc;

use crate::limits::{GATEWAY_HOST_QUEUE_MAX, GATEWAY_LAST_WRITES};
use crate::output;

/// The TCP listener of the settings, if there is one.
fn tcp_listener_config(arguments: &Arguments) -> Option<TcpListenerConfig> {
    arguments.listen.map(|listen| TcpListenerConfig { listen, token_file: arguments.home.gateway_token() })
}

/// Serves until the supervisor stops the process.
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
    let tcp = tcp_listener_config(arguments);
    let memory = Box::new(state_files::StateFiles::new(arguments.home.clone()));
    let state_writer = StateWriter::start()?;
    let writing = state_writer.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let (events, host_events) = mpsc::channel(GATEWAY_HOST_QUEUE_MAX);
        let (host_commands, orders) = mpsc::channel(GATEWAY_HOST_QUEUE_MAX);
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
    state_writer.finish(GATEWAY_LAST_WRITES);
    // Does not wait for a thread that is still connecting to a supervisor.
    runtime.shutdown_background();
    served
}

/// The control socket. `listen` makes the kernel report this process as its peer from now on.
fn inherited_listener() -> io::Result<UnixListener> {
    let listener = ListenFd::from_env().take_unix_listener(0)?.ok_or_else(|| {
        io::Error::other(
            "no listening socket was inherited; use `codexd start` instead of running the gateway directly",
        )
    })?;
    rustix::net::listen(&listener, CONTROL_BACKLOG)?;
    Ok(listener)
}
