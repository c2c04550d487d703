//! Requests, parsed once at the edge: after this every parameter has its type.
//!
//! Requests are validated in upstream's order: is the method known, do its parameters have the right shape,
//! is the client initialized, may it call this, does the server drain; only then is the thread looked for.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::ids::ThreadId;
use crate::methods::{self, Access};
use crate::params::{
    InitializeParams, ThreadListParams, ThreadLoadedListParams, ThreadParams, ThreadReadParams,
    ThreadResumeParams, ThreadSetNameParams, ThreadStartParams, ThreadTurnsListParams, TurnInterruptParams,
    TurnStartParams, TurnSteerParams,
};
use crate::refusal::Refusal;

/// A well-formed request.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Initialize(InitializeParams),
    Diagnostics,
    ThreadStart(ThreadStartParams),
    ThreadResume(ThreadResumeParams),
    ThreadRead(ThreadReadParams),
    ThreadList(ThreadListParams),
    ThreadLoadedList,
    ThreadTurnsList(ThreadTurnsListParams),
    ThreadUnsubscribe(ThreadParams),
    ThreadSetName(ThreadSetNameParams),
    ThreadArchive(ThreadParams),
    ThreadUnarchive(ThreadParams),
    TurnStart(TurnStartParams),
    TurnSteer(TurnSteerParams),
    TurnInterrupt(TurnInterruptParams),
    /// A method of upstream's that this server knows only by name.
    Unsupported(String),
}

impl Call {
    /// Parses a request as far as it can be judged without knowing the state of the server.
    pub(crate) fn parse(method: &str, params: Option<Value>) -> Result<Self, Refusal> {
        if methods::access(method).is_none() {
            return Err(Refusal::invalid(methods::unknown(method)));
        }
        let params = params.ok_or_else(|| Refusal::malformed("missing field `params`"))?;
        Ok(match method {
            "initialize" => Self::Initialize(shape(params)?),
            "server/diagnostics" => Self::Diagnostics,
            "thread/start" => Self::ThreadStart(shape(params)?),
            "thread/resume" => Self::ThreadResume(shape(params)?),
            "thread/read" => Self::ThreadRead(shape(params)?),
            "thread/list" => Self::ThreadList(shape(params)?),
            "thread/loaded/list" => {
                shape::<ThreadLoadedListParams>(params).map(|_| Self::ThreadLoadedList)?
            }
            "thread/turns/list" => Self::ThreadTurnsList(shape(params)?),
            "thread/unsubscribe" => Self::ThreadUnsubscribe(shape(params)?),
            "thread/name/set" => Self::ThreadSetName(shape(params)?),
            "thread/archive" => Self::ThreadArchive(shape(params)?),
            "thread/unarchive" => Self::ThreadUnarchive(shape(params)?),
            "turn/start" => Self::TurnStart(shape(params)?),
            "turn/steer" => Self::TurnSteer(shape(params)?),
            "turn/interrupt" => Self::TurnInterrupt(shape(params)?),
            other => Self::Unsupported(other.to_owned()),
        })
    }

    /// The method, if only clients with `experimentalApi` may call it.
    pub(crate) fn experimental(&self) -> Option<&str> {
        match self {
            Self::Diagnostics => Some("server/diagnostics"),
            Self::Unsupported(method) if methods::access(method) == Some(Access::Experimental) => {
                Some(method)
            }
            _ => None,
        }
    }

    /// Whether a draining server refuses it: all that starts, loads or moves something.
    pub(crate) fn refused_while_draining(&self) -> bool {
        match self {
            Self::ThreadStart(_)
            | Self::ThreadResume(_)
            | Self::ThreadArchive(_)
            | Self::ThreadUnarchive(_)
            | Self::TurnStart(_)
            | Self::TurnSteer(_) => true,
            Self::Unsupported(method) => method == "thread/fork",
            _ => false,
        }
    }

    /// The thread it names. The error is in upstream's words, which call a thread a session where it is a file.
    pub(crate) fn thread(&self) -> Result<Option<ThreadId>, Refusal> {
        let (kind, text) = match self {
            Self::ThreadResume(params) => ("session", &params.thread_id),
            Self::ThreadArchive(params) | Self::ThreadUnarchive(params) => ("session", &params.thread_id),
            Self::ThreadRead(params) => ("thread", &params.thread_id),
            Self::ThreadTurnsList(params) => ("thread", &params.thread_id),
            Self::ThreadUnsubscribe(params) => ("thread", &params.thread_id),
            Self::ThreadSetName(params) => ("thread", &params.thread_id),
            Self::TurnStart(params) => ("thread", &params.thread_id),
            Self::TurnSteer(params) => ("thread", &params.thread_id),
            Self::TurnInterrupt(params) => ("thread", &params.thread_id),
            _ => return Ok(None),
        };
        ThreadId::parse(text)
            .map(Some)
            .map_err(|error| Refusal::invalid(format!("invalid {kind} id: {error}")))
    }
}

fn shape<T: DeserializeOwned>(params: Value) -> Result<T, Refusal> {
    serde_json::from_value(params).map_err(Refusal::malformed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Call;

    fn refused(method: &str, params: serde_json::Value) -> String {
        Call::parse(method, Some(params)).expect_err("it is malformed").message
    }

    #[test]
    fn a_malformed_request_is_refused_in_upstreams_words() {
        assert_eq!(refused("thread/read", json!({})), "Invalid request: missing field `threadId`");
        assert_eq!(
            refused("thread/read", json!({"threadId": 7})),
            "Invalid request: invalid type: integer `7`, expected a string"
        );
        assert_eq!(
            refused("turn/start", json!({"threadId": "a", "input": [{"type": "nope"}]})),
            "Invalid request: unknown variant `nope`, expected one of `text`, `image`, `localImage`, `audio`, \
             `localAudio`, `skill`, `mention`"
        );
        assert_eq!(
            refused("turn/start", json!({"threadId": "a", "input": "x"})),
            "Invalid request: invalid type: string \"x\", expected a sequence"
        );
        assert_eq!(
            refused("turn/steer", json!({"threadId": "a", "input": []})),
            "Invalid request: missing field `expectedTurnId`"
        );
    }

    #[test]
    fn a_request_without_params_is_malformed() {
        let refusal = Call::parse("thread/loaded/list", None).expect_err("it has none");
        assert_eq!(refusal.message, "Invalid request: missing field `params`");
    }

    #[test]
    fn the_id_of_a_file_is_called_a_session() {
        let call = Call::parse("thread/resume", Some(json!({"threadId": "bad"}))).expect("well-formed");
        let refusal = call.thread().expect_err("not an id");
        assert_eq!(
            refusal.message,
            "invalid session id: invalid length: expected length 32 for simple format, found 3"
        );
    }
}
