//! One client: what it may do, what it waits for, which connections it has.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use serde_json::value::RawValue;

use crate::hub::clients::bounds::Unanswered;
use crate::hub::event::{ClientId, Now, ServerId, Text};
use crate::hub::requests::ordering::OrderingKey;
use crate::hub::text::{self, Str};
use crate::hub::upstream::backoff::Backoff;
use crate::hub::upstream::dedicated::DedicatedConnections;

/// What a client declared at `initialize`.
#[derive(Clone, Debug, Default)]
pub struct Capabilities {
    pub experimental: bool,
    pub human_approval: bool,
    pub attests: bool,
    /// Names of notifications that it does not want; shared with its subscriptions.
    pub opted_out: Option<Rc<[Box<str>]>>,
}

impl Capabilities {
    pub fn wants(&self, notification: &str) -> bool {
        self.opted_out.as_ref().is_none_or(|names| !names.iter().any(|name| **name == *notification))
    }
}

/// A request that has not been sent on yet.
#[derive(Clone, Debug)]
pub struct QueuedRequest {
    pub text: Text,
    pub since: Now,
    /// The app-server that refused it unseen, since it drains.
    pub refused_by: Option<ServerId>,
    /// Under which number it was sent there.
    pub number: u64,
    /// Set when something before it has to wait.
    pub lane: Option<OrderingKey>,
}

impl QueuedRequest {
    pub fn new(text: Text, since: Now) -> Self {
        Self { text, since, refused_by: None, number: 0, lane: None }
    }

    pub fn lane(&mut self) -> &OrderingKey {
        self.lane.get_or_insert_with(|| OrderingKey::of(&self.text))
    }

    /// Whether it cannot be answered while what is with this ordering key is not loaded.
    pub fn is_refused_with(&self, lane: &OrderingKey) -> bool {
        let is_in =
            self.lane.as_ref().map_or_else(|| OrderingKey::of(&self.text) == *lane, |known| known == lane);
        let leaves = matches!(
            codexd_protocol::parse(&self.text),
            Ok(codexd_protocol::Message::Request { method: "thread/unsubscribe", .. })
        );
        is_in && !leaves
    }
}

/// A request in force that is made again on another connection.
#[derive(Clone, Debug)]
pub struct ReplayableRequest {
    pub kind: &'static str,
    /// What it is named, raw.
    pub name: Box<str>,
    pub method: Box<str>,
    pub params: Text,
}

/// How far a client's `initialize` is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// It has not introduced itself.
    New,
    /// It has, and waits for the answer to the request of this raw id.
    Initializing { id: Box<str>, asks_upstream: bool },
    /// It was answered.
    Ready,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    pub id: ClientId,
    pub stage: Stage,
    /// The parameters of its `initialize`.
    pub initialize_params: Option<Text>,
    pub capabilities: Capabilities,
    pub dedicated: DedicatedConnections,
    pub queued: VecDeque<QueuedRequest>,
    pub queued_bytes: usize,
    /// A deadline for what waits is set.
    pub has_queue_timer: bool,
    /// Whether it stands in the run queue of those whose requests wait.
    pub is_in_run_queue: bool,
    /// Requests of it that count against its share.
    pub in_flight: usize,
    /// What can be made again on another connection: watches and searches.
    pub replayable: Vec<ReplayableRequest>,
    /// What runs on a dedicated connection and where: the kind and the raw id.
    pub bound_resources: Vec<(&'static str, Box<str>, ServerId)>,
    /// What has ended before the request that began it was answered: the kind and the raw name.
    pub ended_before_response: Option<(&'static str, Box<str>)>,
    /// How often its dedicated connection to this app-server was lost.
    pub dedicated_backoff: (Option<ServerId>, Backoff),
    /// How many of its requests have no answer, at most.
    pub unanswered: Unanswered,
    /// Its dedicated connection was lost under what it watches.
    pub lost_dedicated: bool,
    /// Whether reading from it has stopped.
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

    /// Whether its dedicated connection is open: then that one tells it what goes to every connection.
    pub fn has_dedicated(&self) -> bool {
        self.dedicated.open().is_some()
    }

    /// Where something that it started on a dedicated connection is.
    pub fn place(&self, kind: &str, id: &str) -> Option<ServerId> {
        self.bound_resources
            .iter()
            .find(|(known, named, _)| *known == kind && **named == *id)
            .map(|&(.., server)| server)
    }
}

/// The `clientInfo` of an `initialize`, as every app-server reads it.
#[derive(Debug)]
pub struct ClientInfo<'a> {
    pub name: Cow<'a, str>,
    pub title: Option<Cow<'a, str>>,
    pub version: Cow<'a, str>,
}

impl<'a> ClientInfo<'a> {
    /// Reads the parameters of an `initialize`; `None` where an app-server would refuse them or not read them.
    pub fn of(params: &'a str) -> Option<Self> {
        let info = text::member(params, "clientInfo")?.get();
        let title = match text::member(info, "title") {
            Some(title) => serde_json::from_str::<Option<Str<'a>>>(title.get()).ok()?.map(|title| title.0),
            None => None,
        };
        Some(Self { name: text::string(info, "name")?, title, version: text::string(info, "version")? })
    }
}

/// The parameters of `initialize`, as far as the gateway must know them.
#[derive(Debug)]
pub struct InitializeParams<'a> {
    pub name: Cow<'a, str>,
    pub version: Cow<'a, str>,
    pub capabilities: Capabilities,
    /// Nothing stands in it that only the app-server can judge.
    pub plain: bool,
}

/// Whether the parameters of an `initialize`, or what the gateway has to read in them, are written as arrays. An app-server
/// takes those, with the members in an order that the schema does not tell.
pub fn is_positional(params: &str) -> bool {
    let is_array =
        |name: &str| text::member(params, name).is_some_and(|member| member.get().starts_with('['));
    params.starts_with('[') || is_array("clientInfo") || is_array("capabilities")
}

impl<'a> InitializeParams<'a> {
    /// Reads the parameters; `None` where the app-server will have something to say about them.
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

/// Whether upstream repeats it unchanged in its `userAgent`.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|each| each.is_ascii_alphanumeric() || matches!(each, '_' | '-' | '.' | '/' | ' '))
}
