//! `codexd debug hub`: the state of the gateway's hub, for a bug report. The gateway answers on the control socket.

use std::time::Duration;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::limits::DEBUG_TIMEOUT_MS;
use codexd_protocol::session;
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::output::Answer;
use crate::style::{self, Text};

/// The answer.
#[derive(Debug, Serialize)]
pub struct Reply {
    status: &'static str,
    hub: Value,
}

impl Answer for Reply {
    fn text(&self) -> Text {
        let pretty = serde_json::to_string_pretty(&self.hub).unwrap_or_default();
        style::lines(pretty.lines().map(Text::from))
    }
}

/// Runs the command.
///
/// # Errors
/// `not-answering` if no gateway answers on the control socket.
pub fn hub(context: &Context) -> Result<Reply, Failure> {
    let socket = context.home.control_socket();
    let timeout = Duration::from_millis(DEBUG_TIMEOUT_MS);
    let failed = |why: String| {
        Failure::new(ErrorCode::NotAnswering, format!("no gateway answers on {}: {why}", socket.display()))
            .hint("`codexd status` shows whether a gateway runs; without the gateway there is no hub")
            .with("socketPath", socket.to_string_lossy().into_owned())
    };
    match session::ask_gateway(&socket, "codexd/debug/hub", timeout).map_err(failed)? {
        Ok(hub) => Ok(Reply { status: "ok", hub }),
        Err(error) => Err(failed(format!("the process that listens does not know the request: {error}"))),
    }
}
