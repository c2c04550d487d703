//! A problem that a command reports.

use serde::{Deserialize, Serialize};

/// A defect of a file or a process that `status` found.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Kebab-case, such as `stale-record`.
    pub found: String,
    /// A sentence.
    pub message: String,
}
