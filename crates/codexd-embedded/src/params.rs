//! The parameters of the requests that this server knows, with the types of 0.171.0. Other members are ignored. The names and the
//! order of the members are visible in the errors about malformed requests.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InitializeParams {
    pub client_info: ClientInfo,
    #[serde(default)]
    pub capabilities: Option<InitializeCapabilities>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ClientInfo {
    pub name: String,
    #[expect(dead_code, reason = "only its type is checked")]
    pub title: Option<String>,
    pub version: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct InitializeCapabilities {
    pub experimental_api: bool,
    pub request_attestation: bool,
    pub opt_out_notification_methods: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThreadStartParams {
    pub model: Option<String>,
    pub model_provider: Option<String>,
    pub cwd: Option<String>,
    pub approval_policy: Option<ApprovalPolicy>,
    pub ephemeral: Option<bool>,
}

/// When the user is asked, in the form of the request.
#[derive(Clone, Debug)]
pub(crate) struct ApprovalPolicy(pub Value);

impl<'de> Deserialize<'de> for ApprovalPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        KnownPolicy::deserialize(&value).map_err(D::Error::custom)?;
        Ok(Self(value))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KnownPolicy {
    #[serde(rename = "untrusted")]
    UnlessTrusted,
    OnRequest,
    Granular {},
    Never,
}

/// The members of `thread/loaded/list`. This server answers with one page.
#[derive(Clone, Debug, Default, Deserialize)]
#[expect(dead_code, reason = "only the types of the members are checked")]
pub(crate) struct ThreadLoadedListParams {
    pub cursor: Option<String>,
    pub limit: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThreadResumeParams {
    pub thread_id: String,
    #[serde(default)]
    pub exclude_turns: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThreadReadParams {
    pub thread_id: String,
    #[serde(default)]
    pub include_turns: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThreadListParams {
    pub cursor: Option<String>,
    pub limit: Option<u32>,
    pub archived: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThreadTurnsListParams {
    pub thread_id: String,
    pub cursor: Option<String>,
    pub limit: Option<u32>,
    pub sort_direction: Option<SortDirection>,
    pub items_view: Option<ItemsView>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum SortDirection {
    Asc,
    Desc,
}

/// How much of a turn's items a reply shows.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ItemsView {
    NotLoaded,
    Summary,
    Full,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThreadParams {
    pub thread_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThreadSetNameParams {
    pub thread_id: String,
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TurnStartParams {
    pub thread_id: String,
    #[serde(default)]
    pub client_user_message_id: Option<String>,
    pub input: Vec<UserInput>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TurnSteerParams {
    pub thread_id: String,
    #[serde(default)]
    pub client_user_message_id: Option<String>,
    pub input: Vec<UserInput>,
    pub expected_turn_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TurnInterruptParams {
    pub thread_id: String,
    pub turn_id: String,
}

/// A part of what the user says; only text reaches the scripted model.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum UserInput {
    Text {
        text: String,
        #[serde(default)]
        text_elements: Vec<Value>,
    },
    Image(Map<String, Value>),
    LocalImage(Map<String, Value>),
    Audio(Map<String, Value>),
    LocalAudio(Map<String, Value>),
    Skill(Map<String, Value>),
    Mention(Map<String, Value>),
}
