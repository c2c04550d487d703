//! Why a command failed: a short stable code for programs, a sentence for people, and what to do next.

use serde_json::{Map, Value};

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, exit $exit:literal, retryable $retryable:literal;)+) => {
        /// The code of a failure. The table in the docs is printed from this one.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum ErrorCode { $($(#[doc = $doc])+ $name,)+ }

        impl ErrorCode {
            /// Every code there is.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)+];

            /// The code as programs see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $code,)+ }
            }

            /// The exit status of a command that fails with it.
            pub const fn exit_code(self) -> u8 {
                match self { $(ErrorCode::$name => $exit,)+ }
            }

            /// Whether the same command may succeed later without any change by the caller.
            pub const fn retryable(self) -> bool {
                match self { $(ErrorCode::$name => $retryable,)+ }
            }

            /// What it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(ErrorCode::$name => concat!($($doc,)+),)+ }
            }
        }
    };
}

error_codes! {
    /// A defect of codexd, or a system call that failed where none should.
    Internal = "internal", exit 1, retryable true;
    /// The command line was not understood.
    BadArguments = "bad-arguments", exit 2, retryable false;
    /// No Codex was found on this machine.
    CodexNotFound = "codex-not-found", exit 3, retryable false;
    /// The Codex binary cannot run or does not print its version in time.
    CodexBroken = "codex-broken", exit 4, retryable false;
    /// The Codex binary was still busy when the time to print its version was over.
    CodexSlow = "codex-slow", exit 21, retryable true;
    /// No process answers on the control socket.
    NotAnswering = "not-answering", exit 5, retryable true;
    /// The app-server exited before it answered.
    ServerExited = "server-exited", exit 6, retryable false;
    /// The app-server runs but did not answer in time.
    StartTimeout = "start-timeout", exit 7, retryable true;
    /// The control socket is in use by an app-server that codexd does not manage.
    UnmanagedServer = "unmanaged-server", exit 8, retryable false;
    /// The control socket is in use by a process that is not an app-server, or by an unresponsive one.
    SocketOccupied = "socket-occupied", exit 9, retryable false;
    /// Another command held the operation lock for too long.
    LockTimeout = "lock-timeout", exit 10, retryable true;
    /// The app-server or a process that it started is still alive after SIGKILL.
    StopTimeout = "stop-timeout", exit 11, retryable true;
    /// The state folder is not writable: read-only, of another user, or not a folder.
    StateUnwritable = "state-unwritable", exit 12, retryable false;
    /// The disk is full.
    DiskFull = "disk-full", exit 13, retryable true;
    /// The supervisor could not be started or stopped answering.
    SupervisorFailed = "supervisor-failed", exit 14, retryable true;
    /// Writing the answer to standard output failed.
    StdoutClosed = "stdout-closed", exit 15, retryable false;
    /// The Codex home is not usable: missing, not a folder, not UTF-8, or undetermined.
    HomeInvalid = "home-invalid", exit 16, retryable false;
    /// This machine lacks what the command requires: a mounted /proc, or the service manager that was named.
    UnsupportedPlatform = "unsupported-platform", exit 17, retryable false;
    /// The app-server did not start with the new setting, and the old setting was restored.
    SettingRolledBack = "setting-rolled-back", exit 18, retryable true;
    /// The system refused to start the app-server.
    SpawnFailed = "spawn-failed", exit 20, retryable true;
    /// The home is served from another pid namespace (a container, or its host) or from another host.
    RunningElsewhere = "running-elsewhere", exit 22, retryable false;
    /// A key or a value of codexd.toml, of an environment variable or of an option is not valid.
    SettingsInvalid = "settings-invalid", exit 30, retryable false;
    /// The new app-server cannot load its configuration; the running one is unaffected.
    ConfigInvalid = "config-invalid", exit 26, retryable false;
    /// The new app-server cannot read the threads that are loaded now; the running one is unaffected.
    SuccessorUnfit = "successor-unfit", exit 27, retryable true;
    /// The home, a folder or a file of codexd in it, or the process on its control socket belongs to another user.
    ForeignOwner = "foreign-owner", exit 28, retryable false;
    /// The state that `status --wait` waited for was not reached in time.
    WaitTimeout = "wait-timeout", exit 29, retryable true;
    /// Another supervisor, or systemd, manages the home, so `codexd run` cannot; or `codexd run` does, so `bootstrap` cannot.
    AlreadyManaged = "already-managed", exit 31, retryable false;
    /// This version does not have the strategy that `server.strategy` names.
    UnsupportedStrategy = "unsupported-strategy", exit 32, retryable false;
    /// The service manager is missing, refused a change, or did not answer in time.
    ServiceManagerFailed = "service-manager-failed", exit 33, retryable true;
    /// The app-server refused to enable remote control, or to pair a device.
    RemoteControlFailed = "remote-control-failed", exit 34, retryable true;
    /// The source of releases cannot be used now: it does not exist, cannot be reached, or failed.
    SourceUnreachable = "source-unreachable", exit 40, retryable true;
    /// The source does not have the version that was asked for.
    VersionNotFound = "version-not-found", exit 41, retryable false;
    /// The digest of a package is not the one that its source states.
    DigestMismatch = "digest-mismatch", exit 42, retryable false;
    /// The package is damaged, or has paths, links or files that a package may not have.
    ArchiveInvalid = "archive-invalid", exit 43, retryable false;
    /// The package has more bytes or files than a release may have.
    ArchiveTooLarge = "archive-too-large", exit 44, retryable false;
    /// The package lacks files of a release, or is for another machine.
    ReleaseIncomplete = "release-incomplete", exit 45, retryable false;
    /// The Codex of the package does not work: it prints another version, or its app-server does not answer.
    CandidateUnfit = "candidate-unfit", exit 46, retryable false;
    /// Another installer held the install lock for too long.
    InstallLocked = "install-locked", exit 47, retryable true;
    /// The source took too long to send the package.
    DownloadTimeout = "download-timeout", exit 48, retryable true;
    /// The newest version of the source is older than the selected release.
    DowngradeRefused = "downgrade-refused", exit 51, retryable false;
    /// The file for `self-update` is not a codexd binary for this machine, nor a tarball with one.
    UpdateFileInvalid = "update-file-invalid", exit 52, retryable false;
    /// The SHA-256 of the file for `self-update` is not the one that the file beside it names.
    UpdateFileAltered = "update-file-altered", exit 53, retryable false;
    /// The codexd binary belongs to a package manager, which has to update it.
    PackageOwned = "package-owned", exit 54, retryable false;
    /// The codexd binary cannot be replaced: its folder or the file is not writable.
    BinaryUnwritable = "binary-unwritable", exit 55, retryable false;
    /// The command was interrupted by a signal; the supervisor completes the orders that were given.
    Interrupted = "interrupted", exit 19, retryable true;
}

/// A failure of a command.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What programs branch on.
    pub code: ErrorCode,
    /// What failed, on what, and why.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// More fields for programs (a pid, a path, the end of stderr), by their JSON names.
    pub context: Box<Map<String, Value>>,
}

impl Failure {
    /// A failure with a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, context: Box::default() }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a field for programs.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.context.insert(field.to_owned(), value.into());
        self
    }

    /// The JSON object that the command prints.
    pub fn to_json(&self) -> Value {
        let mut error = Map::new();
        error.insert("code".into(), self.code.as_str().into());
        error.insert("message".into(), self.message.clone().into());
        error.insert("hint".into(), self.hint.clone().map_or(Value::Null, Value::String));
        error.insert("retryable".into(), self.code.retryable().into());
        error.extend((*self.context).clone());
        serde_json::json!({"status": "error", "error": error})
    }
}

/// The table of all codes as Markdown, for docs/errors.md.
pub fn error_table() -> String {
    let mut table = String::from("| code | exit | retryable | meaning |\n|---|---|---|---|\n");
    for code in ErrorCode::ALL {
        let retryable = if code.retryable() { "yes" } else { "no" };
        let meaning = code.meaning().trim();
        table.push_str(&format!(
            "| `{}` | {} | {retryable} | {meaning} |\n",
            code.as_str(),
            code.exit_code()
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;
    use std::collections::HashSet;

    #[test]
    fn codes_are_kebab_case_with_distinct_names_and_exit_codes() {
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        let exits: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.exit_code()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        assert_eq!(exits.len(), ErrorCode::ALL.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        }
        assert!(
            !exits.contains(&0) && exits.iter().all(|&exit| exit < 64),
            "shells keep 64 and up for others"
        );
    }
}
