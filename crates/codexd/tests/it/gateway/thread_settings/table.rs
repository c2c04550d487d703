//! What becomes of each parameter of `thread/start`, `thread/resume` and `thread/fork` in the schema of 0.171.0.

use codexd_testkit::Home;
use serde_json::{Value, json};

use Fate::{ActsOnce, EndsWithServer, IsTold, Survives};

/// What becomes of a parameter when the app-server is replaced.
pub(super) enum Fate {
    /// What it has changed is as it was. The probe is given to `thread/start`.
    Survives(Value),
    /// It says which thread is meant, what the answer holds, or what happens once when the thread begins.
    ActsOnce,
    /// Viewers are told that it is lost.
    IsTold,
    /// The thread ends with its server, which is told.
    EndsWithServer,
}

pub(super) fn table(home: &Home) -> Vec<(&'static str, Fate)> {
    let other = home.root().join("other");
    let tool = json!({"type": "function", "name": "mine", "description": "d",
        "inputSchema": {"type": "object", "properties": {}}});
    let root =
        json!({"id": "r", "location": {"type": "environment", "environmentId": "local", "path": other}});
    vec![
        ("allowProviderModelFallback", ActsOnce),
        ("approvalPolicy", Survives(json!("never"))),
        ("approvalsReviewer", Survives(json!("auto_review"))),
        ("attachToSource", ActsOnce),
        ("baseInstructions", Survives(json!("Base."))),
        ("beforeTurnId", ActsOnce),
        ("config", Survives(json!({"web_search": "disabled", "features.shell_tool": false}))),
        ("cwd", Survives(json!(other))),
        ("daybreakEnabled", Survives(json!(true))),
        ("deferGoalContinuation", IsTold),
        ("developerInstructions", Survives(json!("Developer."))),
        ("dynamicTools", Survives(json!([tool]))),
        ("environments", Survives(json!([]))),
        ("ephemeral", EndsWithServer),
        ("excludeTurns", ActsOnce),
        // Both need an ephemeral fork.
        ("experimentalDisablePredictionMcp", EndsWithServer),
        ("experimentalPredictionMode", EndsWithServer),
        ("experimentalRawEvents", IsTold),
        ("history", ActsOnce),
        ("historyMode", Survives(json!("paginated"))),
        ("initialTurnsPage", ActsOnce),
        ("lastTurnId", ActsOnce),
        ("mockExperimentalField", ActsOnce),
        ("model", Survives(json!("another-model"))),
        ("modelProvider", Survives(json!("another"))),
        // Upstream ignores it.
        ("multiAgentMode", ActsOnce),
        ("path", ActsOnce),
        ("permissions", Survives(json!(":read-only"))),
        ("personality", Survives(json!("friendly"))),
        // Kept by upstream in its database: the project is named by what `project/create` answers.
        ("projectId", Survives(Value::Null)),
        ("runtimeWorkspaceRoots", Survives(json!([home.work(), other]))),
        ("sandbox", Survives(json!("workspace-write"))),
        ("selectedCapabilityRoots", Survives(json!([root]))),
        ("serviceName", Survives(json!("service"))),
        ("serviceTier", Survives(json!("flex"))),
        // For hooks that run when the thread begins.
        ("sessionStartSource", ActsOnce),
        ("threadId", ActsOnce),
        ("threadSource", Survives(json!("user"))),
    ]
}
