//! What the server reads from its home at the start: a few keys of `config.toml`, and the installation id.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use crate::limits::THREAD_UNLOAD_DELAY_SECS;
use crate::{Error, Options, regular_file};

/// Everything that does not change while the server runs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub codex_home: PathBuf,
    /// The working directory of threads that name none.
    pub cwd: String,
    pub version: String,
    pub model: String,
    pub model_provider: String,
    pub unload_delay: Duration,
    pub installation_id: String,
    pub server_name: String,
    pub remote_control: bool,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// `config.toml` or the installation id cannot be read or written. That a file is missing is no error.
    pub(crate) fn read(options: &Options) -> Result<Self, Error> {
        let home = &options.codex_home;
        let config = home.join("config.toml");
        let config = match regular_file::read_to_string(&config) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::Home { path: config, error }),
        };
        let secs = top_level(&config, "thread_unload_delay_secs").and_then(|value| value.parse().ok());
        let configured = Duration::from_secs(secs.unwrap_or(THREAD_UNLOAD_DELAY_SECS));
        let or_ours = |key| top_level(&config, key).unwrap_or_else(|| "embedded".to_owned());
        let cwd = std::env::current_dir().map(|cwd| cwd.display().to_string());
        Ok(Self {
            codex_home: home.clone(),
            cwd: cwd.unwrap_or_else(|_| "/".to_owned()),
            version: options.version.clone(),
            model: or_ours("model"),
            model_provider: or_ours("model_provider"),
            unload_delay: options.thread_unload_delay.unwrap_or(configured),
            installation_id: installation_id(home)?,
            server_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            remote_control: options.remote_control,
        })
    }
}

/// A value of the part of a TOML file that stands before the first table: a number, a word, or a plain string.
fn top_level(config: &str, key: &str) -> Option<String> {
    let lines = config.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    let mut values = lines.filter_map(|line| line.split_once('=')).filter(|(name, _)| name.trim() == key);
    let value = values.next()?.1.trim();
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => value.split('#').next()?.trim(),
    };
    Some(value.to_owned())
}

/// The installation's id, in the file in which upstream keeps it; made if there is none.
fn installation_id(home: &Path) -> Result<String, Error> {
    let path = home.join("installation_id");
    let made = || {
        let id = Uuid::new_v4().to_string();
        let file = regular_file::open(OpenOptions::new().write(true).create(true).truncate(true), &path);
        file.and_then(|mut file| file.write_all(id.as_bytes())).map(|()| id)
    };
    match regular_file::read_to_string(&path) {
        Ok(text) if Uuid::try_parse(text.trim()).is_ok() => Ok(text.trim().to_owned()),
        Ok(_) => made(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => made(),
        Err(error) => Err(error),
    }
    .map_err(|error| Error::Home { path: path.clone(), error })
}

#[cfg(test)]
mod tests {
    use super::{installation_id, top_level};

    #[test]
    fn only_the_top_of_the_configuration_counts() {
        let config =
            "model = \"m # 1\" # why\nthread_unload_delay_secs=0 # now\n[a]\nmodel_provider = \"p\"\n";
        assert_eq!(top_level(config, "model").as_deref(), Some("m # 1"));
        assert_eq!(top_level(config, "thread_unload_delay_secs").as_deref(), Some("0"));
        assert_eq!(top_level(config, "model_provider"), None);
    }

    #[test]
    fn an_installation_keeps_its_id() {
        let home = tempfile::tempdir().expect("a folder");
        let first = installation_id(home.path()).expect("made");
        assert_eq!(installation_id(home.path()).expect("read"), first);
    }
}
