//! `codexd-releases.json`: which releases codexd selected. Only for keeping and going back: which release is in use, `current` says.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::InstallError;
use crate::limits::RECORDED_MAX;
use crate::store::durable::replace_file;
use crate::store::layout::Layout;

/// The name of the [`Marker`].
const MARKER: &str = "codexd-release.json";

/// The record. What a newer codexd wrote into it stays.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Names of releases, the last one that was selected first.
    pub selected: Vec<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Record {
    /// Reads the record. One that cannot be read counts as empty: it only costs an older release its place.
    pub fn read(path: &Path) -> Self {
        fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Writes the record; `beside` is its name until then.
    ///
    /// # Errors
    /// The error of the file system; the old record is unchanged.
    pub fn write(&self, path: &Path, beside: &Path) -> Result<(), InstallError> {
        let text = serde_json::to_string(self).unwrap_or_default() + "\n";
        replace_file(path, beside, text.as_bytes())
    }

    /// Puts a release first, and the one that was in use before it second.
    pub fn select(&mut self, name: &str, before: Option<&str>) {
        for name in before.into_iter().chain([name]) {
            self.selected.retain(|selected| selected != name);
            self.selected.insert(0, name.to_owned());
        }
        self.selected.truncate(RECORDED_MAX);
    }

    /// The release before the one in use.
    pub fn previous(&self, current: &str) -> Option<&str> {
        self.selected.iter().map(String::as_str).find(|name| *name != current)
    }
}

/// What codexd writes into each release that it creates. It removes no other releases.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// The version.
    pub version: String,
    /// The machine that it is for.
    pub target: String,
    /// The source it comes from.
    pub source: String,
    /// The verified digest of the package; none if the source has none.
    pub digest: Option<String>,
    /// Its layout.
    pub layout: Layout,
    /// When it was created, as RFC 3339.
    pub installed_at: String,
}

impl Marker {
    /// The marker of a release; none if codexd did not create it.
    pub fn read(release: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(release.join(MARKER)).ok()?).ok()
    }

    /// Writes the marker into a release that has no name yet.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn write(&self, release: &Path) -> Result<(), InstallError> {
        let path = release.join(MARKER);
        let text = serde_json::to_string(self).unwrap_or_default() + "\n";
        fs::write(&path, text).map_err(InstallError::file("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::Record;

    #[test]
    fn the_release_before_is_kept_and_fields_of_a_newer_codexd_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, beside) = (folder.path().join("r.json"), folder.path().join("r.tmp"));
        std::fs::write(&path, r#"{"selected":["a"],"refused":[{"version":"9"}]}"#).expect("written");
        let mut record = Record::read(&path);
        record.select("b", Some("c"));
        assert_eq!(record.selected, ["b", "c", "a"]);
        record.select("a", Some("b"));
        assert_eq!(
            (record.selected.as_slice(), record.previous("a")),
            (&["a", "b", "c"].map(str::to_owned)[..], Some("b"))
        );
        record.write(&path, &beside).expect("written");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains(r#""refused":[{"version":"9"}]"#), "{text}");
        std::fs::write(&path, "{").expect("written");
        assert!(Record::read(&path).selected.is_empty());
    }
}
