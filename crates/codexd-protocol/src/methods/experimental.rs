//! What needs `experimentalApi`: whole methods, or members of stable ones.
//!
//! The rows are the difference of the two schemas of the newest reference release (0.171.0), without and with `--experimental`.

/// What a client without `experimentalApi` may not send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gate {
    /// Nothing of this method is gated.
    Free,
    /// The method. The members are those that its params require; `None` where params may be left out.
    Method(Option<&'static [&'static str]>),
    /// These members of the params, in the order in which upstream looks at them.
    Members(Members),
}

/// Members and the values that are gated.
pub type Members = &'static [(&'static str, GatedValue)];

/// What a value of a gated member has to be for the gate to hold. Any other value is upstream's to judge.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum GatedValue {
    /// `true`; the member is a boolean that cannot be null.
    Flag,
    /// `true` or `false`; null counts as absent.
    Bool,
    /// A string, also an empty one, or the same word as the only member of an object.
    Text,
    /// As [`GatedValue::Text`], or null.
    TextOrNull,
    /// A string that is not empty.
    Path,
    /// An array, also an empty one.
    List,
    /// An object, also an empty one or written as an array.
    Map,
    /// An object with the member `granular`, which may be an array; refused as `askForApproval.granular`.
    Granular,
}

/// The gated members of stable methods.
pub(super) mod members {
    use super::GatedValue::{Bool, Flag, Granular, List, Map, Path, Text, TextOrNull};
    use super::Members;

    pub const COMMAND_EXEC: Members = &[("permissionProfile", Text)];
    pub const THREAD_FORK: Members = &[
        ("experimentalPredictionMode", Flag),
        ("experimentalDisablePredictionMcp", Flag),
        ("beforeTurnId", Text),
        ("path", Path),
        ("runtimeWorkspaceRoots", List),
        ("approvalPolicy", Granular),
        ("permissions", Text),
        ("attachToSource", Flag),
        ("deferGoalContinuation", Flag),
    ];
    pub const THREAD_LIST: Members = &[
        ("includeAttachedThreads", Flag),
        ("projectId", TextOrNull),
        ("parentThreadId", Text),
        ("ancestorThreadId", Text),
        ("attachedToThreadId", Text),
    ];
    pub const THREAD_METADATA_UPDATE: Members = &[("projectId", Text), ("daybreakEnabled", Bool)];
    pub const THREAD_RESUME: Members = &[
        ("history", List),
        ("path", Path),
        ("runtimeWorkspaceRoots", List),
        ("approvalPolicy", Granular),
        ("permissions", Text),
        ("initialTurnsPage", Map),
    ];
    pub const THREAD_START: Members = &[
        ("allowProviderModelFallback", Flag),
        ("runtimeWorkspaceRoots", List),
        ("approvalPolicy", Granular),
        ("permissions", Text),
        ("multiAgentMode", Text),
        ("historyMode", Text),
        ("projectId", Text),
        ("daybreakEnabled", Bool),
        ("environments", List),
        ("dynamicTools", List),
        ("selectedCapabilityRoots", List),
        ("mockExperimentalField", Text),
        ("experimentalRawEvents", Flag),
    ];
    pub const TURN_START: Members = &[
        ("responsesapiClientMetadata", Map),
        ("responsesapiClientMetadataPatch", Map),
        ("additionalContext", Map),
        ("environments", List),
        ("runtimeWorkspaceRoots", List),
        ("approvalPolicy", Granular),
        ("permissions", Text),
        ("collaborationMode", Map),
        ("multiAgentMode", Text),
        ("cyberAccessProgram", Text),
    ];
    pub const TURN_STEER: Members = &[
        ("responsesapiClientMetadata", Map),
        ("responsesapiClientMetadataPatch", Map),
        ("additionalContext", Map),
    ];
}
