//! One client: identity, capabilities, queued requests and connections.

use codexd_protocol::methods::ResourceKind;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use serde_json::value::RawValue;

use crate::hub::clients::unanswered::Unanswered;
use crate::hub::event::{ClientId, Now, ServerId, Text};
use crate::hub::requests::ordering::OrderingKey;
use crate::hub::text::{self, Str};
use crate::hub::upstream::backoff::Backoff;
use crate::hub::upstream::dedicated::DedicatedConnections;

/// What a client declared in `initialize`.
#[derive(Clone, Debug, Default)]
pub struct Capabilities {
    pub experimental: bool,
    pub human_approval: bool,
    pub attests: bool,
    /// Notifications that the client opted out of; shared with its viewers.
    pub opted_out: Option<Rc<[Box<str>]>>,
}

impl Capabilities {
    pub fn wants(&self, notification: &str) -> bool {
        self.opted_out.as_ref().is_none_or(|names| !names.iter().any(|name| **name == *notification))
    }
}

/// A client's request that is waiting to be dispatched.
#[derive(Clone, Debug)]
pub struct QueuedRequest {
    pub text: Text,
    pub since: Now,
    /// The draining app-server that refused it unseen.
    pub refused_by: Option<ServerId>,
    /// The request id under which it was sent there; 0 if it was not.
    pub number: u64,
    /// Cached when an earlier request is blocked.
    pub key: Option<OrderingKey>,
}

impl QueuedRequest {
    pub fn new(text: Text, since: Now) -> Self {
        Self { text, since, refused_by: None, number: 0, key: None }
    }

    pub fn key(&mut self) -> &OrderingKey {
        self.key.get_or_insert_with(|| OrderingKey::of(&self.text))
    }

    /// Whether the request fails while the thread with this key is refused. `thread/unsubscribe` does not.
    pub fn is_refused_with(&self, key: &OrderingKey) -> bool {
        let is_in =
            self.key.as_ref().map_or_else(|| OrderingKey::of(&self.text) == *key, |known| known == key);
        let leaves = matches!(
            codexd_protocol::parse(&self.text),
            Ok(codexd_protocol::Message::Request { method: "thread/unsubscribe", .. })
        );
        is_in && !leaves
    }
}

/// A watch or search that is started again on another connection.
#[derive(Clone, Debug)]
pub struct ReplayableRequest {
    pub kind: ResourceKind,
    /// The client's name for it, raw JSON.
    pub name: Box<str>,
    pub method: Box<str>,
    pub params: Text,
}

/// Progress of a client's `initialize`.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Not received.
    New,
    /// Received and unanswered. `asks_upstream`: only the app-server can answer it.
    Initializing { id: Box<str>, asks_upstream: bool },
    /// Answered.
    Ready,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    pub id: ClientId,
    pub stage: Stage,
    /// Parameters of its `initialize`.
    pub initialize_params: Option<Text>,
    pub capabilities: Capabilities,
    pub dedicated: DedicatedConnections,
    pub queued: VecDeque<QueuedRequest>,
    pub queued_bytes: usize,
    /// [`Timer::QueueTimeout`](crate::hub::Timer) is set.
    pub has_queue_timer: bool,
    /// Whether the client is in the run queue.
    pub is_in_run_queue: bool,
    /// Number of its in-flight permits.
    pub in_flight: usize,
    /// Watches and searches to replay.
    pub replayable: Vec<ReplayableRequest>,
    /// Commands, processes and logins on dedicated connections: kind, raw name, app-server.
    pub bound_resources: Vec<(ResourceKind, Box<str>, ServerId)>,
    /// Background work that ended before the response to the request that started it: kind and raw name.
    pub ended_before_response: Option<(ResourceKind, Box<str>)>,
    /// Reconnect backoff of its dedicated connection, and the app-server that it applies to.
    pub dedicated_backoff: (Option<ServerId>, Backoff),
    /// Upper bound of its unanswered requests.
    pub unanswered: Unanswered,
    /// Its dedicated connection was lost while it had watches or searches.
    pub lost_dedicated: bool,
    /// Whether reading from the client is paused.
    pub is_paused: bool,
}

impl Client {
    pub fn new(id: ClientId) -> Self {
        Self {
            id,
            stage: Stage::New,
            initialize_params: None,
            capabilities: Capabilities::default(),
            dedicated: DedicatedConnections::default(),
            queued: VecDeque::new(),
            queued_bytes: 0,
            has_queue_timer: false,
            is_in_run_queue: false,
            in_flight: 0,
            replayable: Vec::new(),
            bound_resources: Vec::new(),
            ended_before_response: None,
            dedicated_backoff: Default::default(),
            unanswered: Unanswered::default(),
            lost_dedicated: false,
            is_paused: false,
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// Whether its dedicated connection is open. That one then delivers what goes to every connection.
    pub fn has_dedicated(&self) -> bool {
        self.dedicated.open().is_some()
    }

    /// The app-server on which a resource of this client lives.
    pub fn place(&self, kind: ResourceKind, id: &str) -> Option<ServerId> {
        self.bound_resources
            .iter()
            .find(|(known, named, _)| *known == kind && **named == *id)
            .map(|&(.., server)| server)
    }
}

/// The `clientInfo` of an `initialize`, parsed as every app-server parses it.
#[derive(Debug)]
pub struct ClientInfo<'a> {
    pub name: Cow<'a, str>,
    pub title: Option<Cow<'a, str>>,
    pub version: Cow<'a, str>,
}

impl<'a> ClientInfo<'a> {
    /// Parses the parameters; `None` where an app-server would refuse them.
    pub fn of(params: &'a str) -> Option<Self> {
        let info = text::member(params, "clientInfo")?.get();
        let title = match text::member(info, "title") {
            Some(title) => serde_json::from_str::<Option<Str<'a>>>(title.get()).ok()?.map(|title| title.0),
            None => None,
        };
        Some(Self { name: text::string(info, "name")?, title, version: text::string(info, "version")? })
    }
}

/// The parameters of `initialize` that the gateway must know.
#[derive(Debug)]
pub struct InitializeParams<'a> {
    pub name: Cow<'a, str>,
    pub version: Cow<'a, str>,
    pub capabilities: Capabilities,
    /// Whether the gateway can answer: the parameters hold nothing that only an app-server can judge.
    pub plain: bool,
}

/// Whether the parameters, or members that the gateway has to read, are arrays. An app-server accepts arrays, in an
/// order that the schema does not give.
pub fn is_positional(params: &str) -> bool {
    let is_array =
        |name: &str| text::member(params, name).is_some_and(|member| member.get().starts_with('['));
    params.starts_with('[') || is_array("clientInfo") || is_array("capabilities")
}

impl<'a> InitializeParams<'a> {
    /// Parses the parameters; `None` where the app-server will refuse them.
    pub fn read(params: &'a str) -> Option<Self> {
        let ClientInfo { name, version, .. } = ClientInfo::of(params)?;
        let mut plain = is_plain(&name) && is_plain(&version);
        let mut capabilities = Capabilities::default();
        for (member, value) in text::members(text::member(params, "capabilities").map_or("{}", RawValue::get))
        {
            let flag = || serde_json::from_str::<bool>(value.get()).ok();
            match &*member {
                "experimentalApi" => capabilities.experimental = flag()?,
                "requiredHumanApproval" => capabilities.human_approval = flag()?,
                "requestAttestation" => {
                    capabilities.attests = flag()?;
                    plain &= !capabilities.attests;
                }
                "optOutNotificationMethods" => {
                    let names: Option<Vec<Str<'_>>> = serde_json::from_str(value.get()).ok()?;
                    let names: Rc<[Box<str>]> =
                        names.iter().flatten().map(|name| Box::from(&*name.0)).collect();
                    capabilities.opted_out = (!names.is_empty()).then_some(names);
                }
                _ => plain = false,
            }
        }
        Some(Self { name, version, capabilities, plain })
    }
}

/// Whether upstream repeats the name unchanged in `userAgent`.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|each| each.is_ascii_alphanumeric() || matches!(each, '_' | '-' | '.' | '/' | ' '))
}
