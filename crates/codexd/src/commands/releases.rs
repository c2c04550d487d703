//! `codexd releases`: the releases of Codex in the home. Takes no lock and changes nothing.

use std::path::PathBuf;

use codexd_core::contract::Failure;
use codexd_release::store::layout::Layout;
use codexd_release::store::{Release, Store};
use serde::Serialize;

use super::install::install_failed;
use crate::context::{Context, VERSION};
use crate::output::Answer;
use crate::style::{self, Color, Text};

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    status: &'static str,
    /// The version that `current` leads to.
    current_version: Option<String>,
    /// The one that was selected before it.
    previous_version: Option<String>,
    target: &'static str,
    path: PathBuf,
    releases: Vec<Entry>,
    codexd_version: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    version: String,
    path: PathBuf,
    layout: Option<Layout>,
    /// What is missing in it.
    problem: Option<String>,
    /// Null if another installer created it.
    source: Option<String>,
    digest: Option<String>,
    installed_at: Option<String>,
}

impl Entry {
    fn of(release: Release) -> Self {
        let (layout, problem) = match release.layout {
            Ok(layout) => (Some(layout), None),
            Err(problem) => (None, Some(problem)),
        };
        let marker = release.marker;
        Self {
            version: release.version,
            path: release.path,
            layout,
            problem,
            source: marker.as_ref().map(|marker| marker.source.clone()),
            digest: marker.as_ref().and_then(|marker| marker.digest.clone()),
            installed_at: marker.map(|marker| marker.installed_at),
        }
    }
}

impl Answer for Reply {
    fn text(&self) -> Text {
        if self.releases.is_empty() {
            return Text::from(format!(
                "no release in {}; `codexd install` installs one",
                self.path.display()
            ));
        }
        let state = |entry: &Entry| match &entry.problem {
            Some(problem) => style::paint(format!("incomplete: {problem}"), Color::Yellow),
            None if self.current_version.as_ref() == Some(&entry.version) => {
                style::paint("current", Color::Green)
            }
            None if self.previous_version.as_ref() == Some(&entry.version) => Text::from("previous"),
            None => Text::from("older"),
        };
        let rows: Vec<(&str, Text)> = self
            .releases
            .iter()
            .map(|entry| {
                let source = entry.source.as_deref().unwrap_or("another installer");
                (entry.version.as_str(), state(entry).then(format!(", from {source}")))
            })
            .collect();
        style::table(&rows)
    }
}

/// Runs the command.
///
/// # Errors
/// The folder of the releases cannot be read.
pub fn run(context: &Context) -> Result<Reply, Failure> {
    let store = Store::of_home(context.home.root()).map_err(|error| install_failed(error, None))?;
    let mut releases = store.releases().map_err(|error| install_failed(error, None))?;
    releases.sort_by(|one, other| codexd_release::version_order::compare(&other.version, &one.version));
    let current = store.current().and_then(|name| store.release(&name));
    Ok(Reply {
        status: "ok",
        current_version: current.map(|release| release.version),
        previous_version: store.previous().map(|release| release.version),
        target: store.target(),
        path: store.paths().releases(),
        releases: releases.into_iter().map(Entry::of).collect(),
        codexd_version: VERSION,
    })
}
