//! Where the file of a thread is.
//!
//! `$CODEX_HOME/sessions/YYYY/MM/DD/embedded-YYYY-MM-DDTHH-MM-SS-<thread>.jsonl`, and archived in
//! `$CODEX_HOME/archived_sessions/`. The name does not begin with `rollout-`, so a real Codex on the same home does not
//! take the file for one of its own. A thread's id begins with the time of its creation, so the id alone gives the path.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::ids::ThreadId;

/// What the names of our files begin with.
const PREFIX: &str = "embedded-";
const SUFFIX: &str = ".jsonl";
/// The length of a UUID as text.
const ID_BYTES: usize = 36;

/// The folder of the threads.
pub(crate) fn folder(codex_home: &Path, archived: bool) -> PathBuf {
    codex_home.join(if archived { "archived_sessions" } else { "sessions" })
}

/// The file of `thread`. Its folder need not exist.
pub(crate) fn path(codex_home: &Path, thread: ThreadId, archived: bool) -> PathBuf {
    let created = Timestamp::from_millisecond(thread.created_millis()).unwrap_or_default();
    let name = format!("{PREFIX}{}-{thread}{SUFFIX}", created.strftime("%Y-%m-%dT%H-%M-%S"));
    let folder = folder(codex_home, archived);
    match archived {
        true => folder.join(name),
        false => folder.join(created.strftime("%Y/%m/%d").to_string()).join(name),
    }
}

/// The thread that a file name names, if it is one of ours.
pub(crate) fn thread_of(file_name: &str) -> Option<ThreadId> {
    let stem = file_name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let start = stem.len().checked_sub(ID_BYTES)?;
    ThreadId::parse(stem.get(start..)?).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{path, thread_of};
    use crate::ids::IdGenerator;
    use crate::timestamp::Timestamp;

    #[test]
    fn a_path_names_the_day_and_the_thread() {
        let thread = IdGenerator::new(1).thread(Timestamp::from_millis(1_795_150_801_000));
        let file = path(Path::new("/h"), thread, false);
        let text = file.display().to_string();
        assert!(text.starts_with("/h/sessions/2026/11/20/embedded-2026-11-20T05-00-01-"), "{text}");
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_eq!(thread_of(name), Some(thread));
        assert_eq!(path(Path::new("/h"), thread, true), Path::new("/h/archived_sessions").join(name));
    }

    #[test]
    fn the_files_of_the_real_codex_are_not_ours() {
        assert_eq!(thread_of("rollout-2026-11-20T05-00-01-01a1f753-6b57-7b12-90c4-0103728d38e4.jsonl"), None);
        assert_eq!(thread_of("embedded-.jsonl"), None);
    }
}
