//! The names of upstream's methods (app-server 0.169.0), in the order in which it lists them when it meets one it does
//! not know.

/// Who may call a method.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Every client.
    Stable,
    /// Clients that declared the capability `experimentalApi`.
    Experimental,
}

use Access::{Experimental, Stable};

/// Who may call `method`; `None` if upstream has no such method.
pub(crate) fn access(method: &str) -> Option<Access> {
    METHODS.iter().find(|(name, _)| *name == method).map(|&(_, access)| access)
}

/// The error message for an unknown method.
pub(crate) fn unknown(method: &str) -> String {
    let names: Vec<_> = METHODS.iter().map(|(name, _)| format!("`{name}`")).collect();
    format!("Invalid request: unknown variant `{method}`, expected one of {}", names.join(", "))
}

#[rustfmt::skip]
const METHODS: &[(&str, Access)] = &[
    ("initialize", Stable), ("server/diagnostics", Experimental), ("userVerification/status", Experimental),
    ("userVerification/enroll", Experimental), ("userVerification/delete", Experimental),
    ("userVerification/verify", Experimental), ("userVerification/cancel", Experimental),
    ("thread/start", Stable), ("thread/resume", Stable), ("thread/fork", Stable),
    ("thread/sample", Experimental), ("thread/sample/cancel", Experimental), ("thread/archive", Stable),
    ("thread/delete", Stable), ("thread/unsubscribe", Stable),
    ("thread/increment_elicitation", Experimental), ("thread/decrement_elicitation", Experimental),
    ("thread/name/set", Stable), ("thread/prediction/request", Experimental), ("thread/goal/set", Stable),
    ("thread/goal/get", Stable), ("thread/goal/clear", Stable), ("thread/queue/add", Experimental),
    ("thread/queue/list", Experimental), ("thread/queue/update", Experimental),
    ("thread/queue/delete", Experimental), ("thread/queue/reorder", Experimental),
    ("thread/queue/start", Experimental), ("thread/metadata/update", Stable),
    ("thread/attachment/add", Stable), ("thread/attachment/list", Stable),
    ("thread/attachmentOwner/list", Stable), ("thread/attachment/remove", Stable),
    ("thread/section/move", Stable), ("thread/settings/update", Experimental),
    ("thread/memoryMode/set", Experimental), ("thread/memory/read", Experimental),
    ("memory/status", Experimental), ("memory/reset", Experimental), ("rollout/compress", Experimental),
    ("thread/unarchive", Stable), ("thread/compact/start", Stable), ("thread/shellCommand", Stable),
    ("thread/approveGuardianDeniedAction", Stable), ("thread/backgroundTerminals/clean", Experimental),
    ("thread/backgroundTerminals/list", Experimental),
    ("thread/backgroundTerminals/terminate", Experimental), ("thread/revert", Stable),
    ("thread/list", Stable), ("project/list", Experimental), ("project/read", Experimental),
    ("project/create", Experimental), ("project/import", Experimental), ("project/update", Experimental),
    ("project/move", Experimental), ("project/delete", Experimental), ("threadSection/list", Stable),
    ("threadSection/create", Stable), ("threadSection/update", Stable), ("threadSection/delete", Stable),
    ("thread/search", Experimental), ("thread/searchOccurrences", Experimental),
    ("thread/loaded/list", Stable), ("thread/read", Stable), ("thread/readState/update", Experimental),
    ("thread/turns/list", Stable), ("thread/items/list", Stable), ("thread/items/read", Experimental),
    ("thread/guardianReview", Experimental), ("thread/inject_items", Stable),
    ("thread/prepareApprovedPlan", Experimental), ("skills/list", Stable), ("skills/extraRoots/set", Stable),
    ("hooks/list", Stable), ("marketplace/add", Stable), ("marketplace/remove", Stable),
    ("marketplace/upgrade", Stable), ("plugin/list", Stable), ("plugin/search", Experimental),
    ("plugin/installed", Stable), ("plugin/reconcile", Stable), ("plugin/read", Stable),
    ("plugin/skill/read", Stable), ("plugin/share/save", Stable), ("plugin/share/updateTargets", Stable),
    ("plugin/share/list", Stable), ("plugin/share/checkout", Stable), ("plugin/share/delete", Stable),
    ("app/read", Stable), ("app/list", Stable), ("app/installed", Stable), ("fs/readFile", Stable),
    ("fs/writeFile", Stable), ("fs/createDirectory", Stable), ("fs/getMetadata", Stable),
    ("fs/readDirectory", Stable), ("fs/remove", Stable), ("fs/copy", Stable), ("fs/watch", Stable),
    ("fs/unwatch", Stable), ("skills/config/write", Stable), ("plugin/install", Stable),
    ("plugin/uninstall", Stable), ("turn/start", Stable), ("turn/settings/update", Experimental),
    ("turn/steer", Stable), ("turn/interrupt", Stable), ("thread/realtime/start", Experimental),
    ("thread/realtime/appendAudio", Experimental), ("thread/realtime/appendText", Experimental),
    ("thread/realtime/appendSpeech", Experimental), ("thread/realtime/stop", Experimental),
    ("thread/timeline/list", Experimental), ("thread/realtime/listVoices", Experimental),
    ("review/start", Stable), ("model/list", Stable), ("account/gatewayOAuth/read", Stable),
    ("account/gatewayOAuth/login", Stable), ("account/gatewayOAuth/cancel", Stable),
    ("modelProvider/list", Stable), ("modelProvider/config/write", Stable),
    ("modelProvider/capabilities/read", Stable), ("experimentalFeature/list", Stable),
    ("permissionProfile/list", Stable), ("experimentalFeature/enablement/set", Stable),
    ("remoteControl/enable", Experimental), ("remoteControl/disable", Experimental),
    ("remoteControl/status/read", Experimental), ("remoteControl/pairing/start", Experimental),
    ("remoteControl/pairing/status", Experimental), ("remoteControl/client/list", Experimental),
    ("remoteControl/client/revoke", Experimental), ("collaborationMode/list", Experimental),
    ("mock/experimentalMethod", Experimental), ("environment/add", Experimental),
    ("environment/info", Experimental), ("environment/status", Experimental),
    ("mcpServer/oauth/login", Stable), ("config/mcpServer/reload", Stable), ("mcpServerStatus/list", Stable),
    ("mcpServer/resource/read", Stable), ("mcpServer/event/stream/start", Experimental),
    ("mcpServer/event/stream/stop", Experimental), ("mcpServer/tool/call", Stable),
    ("windowsSandbox/setupStart", Stable), ("windowsSandbox/readiness", Stable),
    ("account/login/start", Stable), ("account/bedrock/discover", Experimental),
    ("account/bedrock/setup", Experimental), ("account/gcp/setup", Experimental),
    ("account/bedrock/checkGovCloudRequirements", Experimental), ("account/login/cancel", Stable),
    ("accountSession/list", Experimental), ("accountSession/switch", Experimental),
    ("account/logout", Stable), ("account/securitySetup/read", Stable), ("account/rateLimits/read", Stable),
    ("account/rateLimitResetCredit/consume", Stable), ("account/usage/read", Stable),
    ("account/workspaceMessages/read", Stable), ("account/sendAddCreditsNudgeEmail", Stable),
    ("feedback/upload", Stable), ("feedback/save", Stable), ("command/exec", Stable),
    ("command/exec/write", Stable), ("command/exec/terminate", Stable), ("command/exec/resize", Stable),
    ("process/spawn", Experimental), ("process/writeStdin", Experimental), ("process/kill", Experimental),
    ("process/resizePty", Experimental), ("config/read", Stable), ("externalAgentConfig/detect", Stable),
    ("externalAgentConfig/import", Stable), ("externalAgentConfig/import/recordHistory", Stable),
    ("externalAgentConfig/import/readHistories", Stable), ("config/value/write", Stable),
    ("config/batchWrite", Stable), ("configRequirements/read", Stable), ("account/read", Stable),
    ("getConversationSummary", Stable), ("gitDiffToRemote", Stable), ("getAuthStatus", Stable),
    ("fuzzyFileSearch", Stable), ("fuzzyFileSearch/sessionStart", Experimental),
    ("fuzzyFileSearch/sessionUpdate", Experimental), ("fuzzyFileSearch/sessionStop", Experimental),
];

#[cfg(test)]
mod tests {
    use super::{Access, METHODS, access, unknown};

    #[test]
    fn the_table_knows_upstreams_187_methods() {
        assert_eq!(METHODS.len(), 187);
        assert_eq!(METHODS.iter().filter(|(_, access)| *access == Access::Experimental).count(), 75);
    }

    #[test]
    fn a_method_is_known_by_its_whole_name() {
        assert_eq!(access("turn/start"), Some(Access::Stable));
        assert_eq!(access("server/diagnostics"), Some(Access::Experimental));
        assert_eq!(access("turn/"), None);
    }

    #[test]
    fn the_unknown_one_is_named_with_all_the_known_ones() {
        let sentence = unknown("a/b");
        assert!(
            sentence
                .starts_with("Invalid request: unknown variant `a/b`, expected one of `initialize`, `ser")
        );
        assert!(sentence.ends_with("`fuzzyFileSearch/sessionStop`"));
    }
}
