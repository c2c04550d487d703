//! Changes of files in the folders that a daemon works in.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// The folders of a home that belong to the daemon; what the app-server writes elsewhere does not count.
const WATCHED: [&str; 3] = ["app-server-daemon", "app-server-control", "packages"];

/// Watches the daemon's folders of a home, also those that appear later.
pub(super) struct Folders {
    descriptor: OwnedFd,
    watched: HashMap<i32, PathBuf>,
    home: PathBuf,
}

impl Folders {
    pub(super) fn watch(home: &Path) -> anyhow::Result<Folders> {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut folders = Folders { descriptor, watched: HashMap::new(), home: home.to_owned() };
        folders.add(home)?;
        for name in WATCHED {
            folders.add_tree(&home.join(name))?;
        }
        Ok(folders)
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// How many changes there were since the last look.
    pub(super) fn count_changes(&mut self) -> anyhow::Result<usize> {
        let mut appeared = Vec::new();
        let mut count = 0;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.descriptor, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error).context("failed to read changes"),
            };
            let Some(folder) = self.watched.get(&event.wd()) else { continue };
            let name = event.file_name().map(|name| std::ffi::OsStr::from_bytes(name.to_bytes()));
            if *folder == self.home && !name.is_some_and(|name| WATCHED.iter().any(|known| name == *known)) {
                continue;
            }
            count += 1;
            if let Some(name) = name
                && event.events().contains(ReadFlags::ISDIR | ReadFlags::CREATE)
            {
                appeared.push(folder.join(name));
            }
        }
        for folder in appeared {
            self.add_tree(&folder)?;
        }
        Ok(count)
    }

    fn add_tree(&mut self, folder: &Path) -> anyhow::Result<()> {
        if !folder.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        self.add(folder)?;
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            self.add_tree(&entry.path())?;
        }
        Ok(())
    }

    fn add(&mut self, folder: &Path) -> anyhow::Result<()> {
        let changes = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE;
        match inotify::add_watch(&self.descriptor, folder, changes) {
            Ok(number) => {
                self.watched.insert(number, folder.to_owned());
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("failed to watch {}", folder.display())),
        }
    }
}
