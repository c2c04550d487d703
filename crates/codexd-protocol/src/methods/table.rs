//! The rows, sorted by name.

use super::RequestKind::{
    EventStream, Exec, Goal, Interrupt, LoadedList, MayStartTurn, NewThread, Resume, Setting, Spawn,
    ThreadList, Turn, Unsubscribe,
};
use super::ResourceKind::{Command, GatewayLogin, Login, McpLogin, Process, Search, Watch};
use super::experimental::members;
use super::{
    Deadline, Gate, GatedValue, Method, RequestKind, Resource, ResourceKind, ResourceRole, Route, Special,
};

const fn row(name: &'static str, route: Route) -> Method {
    Method {
        name,
        route,
        kind: RequestKind::Plain,
        starts_turn: false,
        resource: None,
        request_id: None,
        gate: Gate::Free,
        deadline: Deadline::Short,
    }
}

const fn hub(name: &'static str) -> Method {
    row(name, Route::Hub)
}

const fn hub_or_dedicated(name: &'static str) -> Method {
    row(name, Route::HubOrDedicated)
}

const fn dedicated(name: &'static str) -> Method {
    row(name, Route::Dedicated)
}

const fn gateway(name: &'static str, special: Special) -> Method {
    row(name, Route::Gateway(special))
}

impl Method {
    const fn kind(mut self, kind: RequestKind) -> Self {
        self.kind = kind;
        self
    }

    const fn starts_turn(mut self) -> Self {
        self.starts_turn = true;
        self
    }

    const fn begins(self, kind: ResourceKind, member: &'static str) -> Self {
        self.with(Resource { kind, member, role: ResourceRole::Begins })
    }

    const fn uses(self, kind: ResourceKind, member: &'static str) -> Self {
        self.with(Resource { kind, member, role: ResourceRole::Uses })
    }

    const fn ends(self, kind: ResourceKind, member: &'static str) -> Self {
        self.with(Resource { kind, member, role: ResourceRole::Ends })
    }

    const fn continues(self, kind: ResourceKind, member: &'static str) -> Self {
        let resource = Resource { kind, member, role: ResourceRole::ContinuesAfterResponse };
        self.with(resource).kind(RequestKind::StartsBackground(resource))
    }

    const fn with(mut self, resource: Resource) -> Self {
        self.resource = Some(resource);
        if resource.kind.is_replayed() {
            self.kind = RequestKind::Replayed;
        }
        self
    }

    const fn request_id(mut self, member: &'static str) -> Self {
        self.request_id = Some(member);
        self
    }

    const fn gated(mut self, required: Option<&'static [&'static str]>) -> Self {
        self.gate = Gate::Method(required);
        self
    }

    const fn gated_members(mut self, members: &'static [(&'static str, GatedValue)]) -> Self {
        self.gate = Gate::Members(members);
        self
    }

    const fn slow(mut self) -> Self {
        self.deadline = Deadline::Long;
        self
    }

    const fn endless(mut self) -> Self {
        self.deadline = Deadline::None;
        self
    }
}

/// Every request of every reference release, and the three that 0.169.0 and 0.171.0 take without having them in the schema.
pub(super) static TABLE: &[Method] = &[
    dedicated("account/bedrock/checkGovCloudRequirements").gated(Some(&[])).slow(),
    dedicated("account/bedrock/discover").gated(Some(&[])).slow(),
    dedicated("account/bedrock/setup").gated(Some(&["region", "type"])).slow(),
    dedicated("account/gatewayOAuth/cancel").ends(GatewayLogin, ""),
    dedicated("account/gatewayOAuth/login").continues(GatewayLogin, "").slow(),
    dedicated("account/gatewayOAuth/read").uses(GatewayLogin, ""),
    dedicated("account/gcp/setup").gated(Some(&["projectId"])).slow(),
    dedicated("account/login/cancel").ends(Login, "loginId"),
    dedicated("account/login/start").continues(Login, "loginId").slow(),
    dedicated("account/logout").slow(),
    dedicated("account/rateLimitResetCredit/consume"),
    dedicated("account/rateLimits/read"),
    dedicated("account/read"),
    dedicated("account/securitySetup/read"),
    dedicated("account/sendAddCreditsNudgeEmail").slow(),
    hub_or_dedicated("account/usage/read"),
    dedicated("account/workspaceMessages/read"),
    dedicated("accountSession/list").gated(Some(&[])),
    dedicated("accountSession/switch").gated(Some(&["accountId", "sessionId"])).slow(),
    hub_or_dedicated("app/installed").slow(),
    hub_or_dedicated("app/list").slow(),
    hub_or_dedicated("app/read").slow(),
    dedicated("collaborationMode/list").gated(Some(&[])),
    dedicated("command/exec")
        .kind(Exec)
        .begins(Command, "processId")
        .gated_members(members::COMMAND_EXEC)
        .endless(),
    dedicated("command/exec/resize").uses(Command, "processId"),
    dedicated("command/exec/terminate").uses(Command, "processId"),
    dedicated("command/exec/write").uses(Command, "processId"),
    dedicated("config/batchWrite"),
    dedicated("config/mcpServer/reload").slow(),
    dedicated("config/read"),
    dedicated("config/value/write"),
    dedicated("configRequirements/read"),
    dedicated("environment/add").kind(Setting).gated(Some(&["environmentId", "execServerUrl"])),
    dedicated("environment/info").gated(Some(&["environmentId"])),
    dedicated("environment/status").gated(Some(&["environmentId"])),
    dedicated("experimentalFeature/enablement/set").kind(Setting),
    hub_or_dedicated("experimentalFeature/list"),
    dedicated("externalAgentConfig/detect").slow(),
    dedicated("externalAgentConfig/import").slow(),
    dedicated("externalAgentConfig/import/readHistories"),
    dedicated("externalAgentConfig/import/recordHistory"),
    hub_or_dedicated("feedback/save").slow(),
    hub_or_dedicated("feedback/upload").slow(),
    dedicated("fs/copy").slow(),
    dedicated("fs/createDirectory"),
    dedicated("fs/getMetadata"),
    dedicated("fs/readDirectory").slow(),
    dedicated("fs/readFile").slow(),
    dedicated("fs/remove").slow(),
    dedicated("fs/unwatch").ends(Watch, "watchId"),
    dedicated("fs/watch").begins(Watch, "watchId"),
    dedicated("fs/writeFile").slow(),
    dedicated("fuzzyFileSearch").slow(),
    dedicated("fuzzyFileSearch/sessionStart")
        .begins(Search, "sessionId")
        .gated(Some(&["roots", "sessionId"])),
    dedicated("fuzzyFileSearch/sessionStop").ends(Search, "sessionId").gated(Some(&["sessionId"])),
    dedicated("fuzzyFileSearch/sessionUpdate").uses(Search, "sessionId").gated(Some(&["query", "sessionId"])),
    dedicated("getAuthStatus"),
    dedicated("getConversationSummary"),
    dedicated("gitDiffToRemote").slow(),
    hub_or_dedicated("hooks/list").slow(),
    gateway("initialize", Special::Initialize),
    dedicated("marketplace/add").slow(),
    dedicated("marketplace/remove").slow(),
    dedicated("marketplace/upgrade").slow(),
    hub("mcpServer/event/stream/start")
        .kind(EventStream)
        .gated(Some(&["arguments", "name", "server", "subscriptionId", "threadId"]))
        .slow(),
    gateway("mcpServer/event/stream/stop", Special::EventStreamStop).gated(Some(&["subscriptionId"])),
    hub_or_dedicated("mcpServer/oauth/login").continues(McpLogin, "name").slow(),
    hub_or_dedicated("mcpServer/resource/read").slow(),
    hub("mcpServer/tool/call").endless(),
    hub_or_dedicated("mcpServerStatus/list").slow(),
    dedicated("memory/reset").gated(None).slow(),
    dedicated("memory/status").gated(Some(&[])),
    dedicated("mock/experimentalMethod").gated(Some(&[])),
    dedicated("model/list"),
    dedicated("modelProvider/capabilities/read"),
    dedicated("modelProvider/config/write"),
    dedicated("modelProvider/default/set"),
    dedicated("modelProvider/list"),
    dedicated("permissionProfile/list"),
    dedicated("plugin/install").slow(),
    dedicated("plugin/installed").slow(),
    dedicated("plugin/list").slow(),
    dedicated("plugin/read").slow(),
    dedicated("plugin/reconcile").slow(),
    dedicated("plugin/search").gated(Some(&["searchTerm"])).slow(),
    dedicated("plugin/share/checkout").slow(),
    dedicated("plugin/share/delete").slow(),
    dedicated("plugin/share/list").slow(),
    dedicated("plugin/share/save").slow(),
    dedicated("plugin/share/updateTargets").slow(),
    dedicated("plugin/skill/read").slow(),
    dedicated("plugin/uninstall").slow(),
    dedicated("process/kill").uses(Process, "processHandle").gated(Some(&["processHandle"])),
    dedicated("process/resizePty").uses(Process, "processHandle").gated(Some(&["processHandle", "size"])),
    dedicated("process/spawn")
        .kind(Spawn)
        .begins(Process, "processHandle")
        .gated(Some(&["command", "cwd", "processHandle"]))
        .slow(),
    dedicated("process/writeStdin").uses(Process, "processHandle").gated(Some(&["processHandle"])),
    dedicated("project/create").gated(Some(&["idempotencyKey", "name", "roots"])),
    dedicated("project/delete").gated(Some(&["projectId"])),
    dedicated("project/import").gated(Some(&["idempotencyKey", "name", "roots"])).slow(),
    dedicated("project/list").gated(Some(&[])),
    dedicated("project/move").gated(Some(&["projectId"])),
    dedicated("project/read").gated(Some(&["projectId"])),
    dedicated("project/update").gated(Some(&["projectId"])),
    dedicated("remoteControl/client/list").gated(Some(&["environmentId"])),
    dedicated("remoteControl/client/revoke").gated(Some(&["clientId", "environmentId"])),
    dedicated("remoteControl/disable").gated(None),
    dedicated("remoteControl/enable").gated(None).slow(),
    dedicated("remoteControl/pairing/start").gated(Some(&[])).slow(),
    dedicated("remoteControl/pairing/status").gated(Some(&[])),
    dedicated("remoteControl/status/read").gated(None),
    hub("review/start").kind(MayStartTurn).starts_turn().slow(),
    dedicated("rollout/compress").gated(None).slow(),
    dedicated("server/diagnostics").gated(Some(&[])).slow(),
    dedicated("skills/config/write"),
    dedicated("skills/extraRoots/set").kind(Setting),
    dedicated("skills/list"),
    hub("thread/approveGuardianDeniedAction").kind(MayStartTurn).starts_turn().endless(),
    hub("thread/archive").slow(),
    hub("thread/attachment/add"),
    hub("thread/attachment/list"),
    hub("thread/attachment/remove"),
    dedicated("thread/attachmentOwner/list"),
    hub("thread/backgroundTerminals/clean").gated(Some(&["threadId"])),
    hub("thread/backgroundTerminals/list").gated(Some(&["threadId"])),
    hub("thread/backgroundTerminals/terminate").gated(Some(&["processId", "threadId"])),
    hub("thread/compact/start").kind(MayStartTurn).starts_turn().slow(),
    hub("thread/decrement_elicitation").gated(Some(&["threadId"])),
    hub("thread/delete").slow(),
    hub("thread/fork").kind(NewThread).gated_members(members::THREAD_FORK).slow(),
    hub("thread/goal/clear"),
    hub("thread/goal/get").kind(Goal),
    hub("thread/goal/set").kind(MayStartTurn).starts_turn().slow(),
    hub("thread/guardianReview").kind(MayStartTurn).starts_turn().gated(Some(&["threadId"])).endless(),
    hub("thread/increment_elicitation").gated(Some(&["threadId"])),
    hub("thread/inject_items").kind(MayStartTurn).starts_turn().slow(),
    hub("thread/items/list"),
    hub("thread/items/read").gated(Some(&["itemIds", "threadId", "turnId"])),
    gateway("thread/list", Special::ThreadList).kind(ThreadList).gated_members(members::THREAD_LIST),
    gateway("thread/loaded/list", Special::LoadedList).kind(LoadedList),
    hub("thread/memory/read").gated(Some(&["threadId"])),
    hub("thread/memoryMode/set").gated(Some(&["mode", "threadId"])),
    hub("thread/metadata/update").gated_members(members::THREAD_METADATA_UPDATE),
    hub("thread/name/set"),
    hub("thread/prediction/request")
        .kind(MayStartTurn)
        .starts_turn()
        .gated(Some(&["sourceTurnId", "threadId"]))
        .endless(),
    hub("thread/prepareApprovedPlan")
        .kind(MayStartTurn)
        .starts_turn()
        .gated(Some(&["markdown", "threadId"]))
        .slow(),
    hub("thread/queue/add")
        .kind(MayStartTurn)
        .starts_turn()
        .gated(Some(&["clientUserMessageId", "input", "threadId"]))
        .slow(),
    hub("thread/queue/delete").gated(Some(&["queuedSubmissionId", "threadId"])),
    hub("thread/queue/list").gated(Some(&["threadId"])),
    hub("thread/queue/reorder").gated(Some(&["queuedSubmissionIds", "threadId"])),
    hub("thread/queue/start").kind(MayStartTurn).starts_turn().gated(Some(&["threadId"])).slow(),
    hub("thread/queue/update")
        .kind(MayStartTurn)
        .starts_turn()
        .gated(Some(&["input", "queuedSubmissionId", "threadId"]))
        .slow(),
    hub("thread/read"),
    hub("thread/readState/update").gated(Some(&["expectedRevision", "operation", "threadId"])),
    hub("thread/realtime/appendAudio").gated(Some(&["audio", "threadId"])),
    hub("thread/realtime/appendSpeech").gated(Some(&["text", "threadId"])),
    hub("thread/realtime/appendText").gated(Some(&["text", "threadId"])),
    hub("thread/realtime/list").gated(Some(&["threadId"])),
    dedicated("thread/realtime/listVoices").gated(Some(&[])),
    hub("thread/realtime/start")
        .kind(MayStartTurn)
        .starts_turn()
        .gated(Some(&["outputModality", "threadId"]))
        .slow(),
    hub("thread/realtime/stop").gated(Some(&["threadId"])),
    hub("thread/resume").kind(Resume).gated_members(members::THREAD_RESUME).slow(),
    hub("thread/revert").slow(),
    hub("thread/rollback").slow(),
    hub("thread/sample").gated(Some(&["expectedTurnId", "prompt", "threadId"])).endless(),
    gateway("thread/sample/cancel", Special::RequestId).request_id("requestId").gated(Some(&["requestId"])),
    gateway("thread/search", Special::ThreadSearch).kind(ThreadList).gated(Some(&["searchTerm"])).slow(),
    gateway("thread/search/cancel", Special::RequestId).request_id("requestId").gated(Some(&["requestId"])),
    gateway("thread/search/stream", Special::ThreadSearch)
        .kind(ThreadList)
        .gated(Some(&["searchTerm"]))
        .slow(),
    gateway("thread/search/stream/cancel", Special::RequestId)
        .request_id("requestId")
        .gated(Some(&["requestId"])),
    hub("thread/searchOccurrences").gated(Some(&["searchTerm", "threadId"])).slow(),
    hub("thread/section/move"),
    hub("thread/settings/update").gated(Some(&["threadId"])),
    hub("thread/shellCommand").kind(MayStartTurn).starts_turn().slow(),
    hub("thread/start").kind(NewThread).gated_members(members::THREAD_START).slow(),
    hub("thread/timeline/list").gated(Some(&["threadId"])),
    hub("thread/turns/items/list"),
    hub("thread/turns/list"),
    hub("thread/unarchive").slow(),
    gateway("thread/unsubscribe", Special::Unsubscribe).kind(Unsubscribe),
    dedicated("threadSection/create"),
    dedicated("threadSection/delete"),
    dedicated("threadSection/list"),
    dedicated("threadSection/update"),
    hub("turn/interrupt").kind(Interrupt).slow(),
    hub("turn/settings/update").gated(Some(&["threadId", "turnId"])),
    hub("turn/start").kind(Turn).starts_turn().gated_members(members::TURN_START).slow(),
    hub("turn/steer").gated_members(members::TURN_STEER).slow(),
    gateway("userVerification/cancel", Special::RequestId)
        .request_id("requestId")
        .gated(Some(&["requestId"])),
    dedicated("userVerification/delete").gated(Some(&[])).endless(),
    dedicated("userVerification/enroll").gated(Some(&[])).endless(),
    dedicated("userVerification/status").gated(Some(&[])),
    dedicated("userVerification/verify").gated(Some(&["challenge", "description", "title"])).endless(),
    dedicated("windowsSandbox/readiness"),
    dedicated("windowsSandbox/setupStart").slow(),
];
