//! Other users of the machine: no socket of a home lets them in, and where a user has widened the permissions, the gateway checks
//! who it is.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use codexd_protocol::{probe, unix};
use codexd_testkit::{Codexd, Home, skip};
use rustix::process::{Gid, Uid};

use super::{answered, started};
use crate::lifecycle::SOON;

const NOBODY: u32 = 65_534;

/// Does something as a user who owns nothing and is in no group.
fn as_nobody<T: Send>(act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            // Of this thread alone: that is what the system calls do.
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(group, group, group)?;
            rustix::thread::set_thread_res_uid(user, user, user)?;
            act()
        });
        acting.join().expect("no panic")
    })
}

/// Every socket below a folder, and every folder.
fn sockets_and_folders(folder: &Path) -> anyhow::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut sockets, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    let mut at = 0;
    while let Some(folder) = folders.get(at).cloned() {
        for entry in fs::read_dir(folder)? {
            let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
            let kind = entry?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_socket() {
                sockets.push(path);
            }
        }
        at += 1;
    }
    Ok((sockets, folders))
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("failed to change the mode of {}", path.display()))
}

/// What one who connects gets for a request that everybody else gets an answer to.
fn heard(mut stream: UnixStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(SOON))?;
    let request = "GET /rpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // Who is refused may be hung up on before it has said anything.
    let said = stream.write_all(request.as_bytes());
    let mut heard = [0; 12];
    match stream.read(&mut heard) {
        Ok(length) => Ok(heard[..length].to_owned()),
        Err(error) if said.is_err() || error.kind() == ErrorKind::ConnectionReset => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[test]
fn another_user_reaches_no_socket_of_a_home() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        skip!("only root can be another user");
    }
    let home = started()?;
    let control = home.control_socket();
    let folder = control.parent().context("it lies in a folder")?;
    let mode = |path: &Path| Ok::<_, io::Error>(fs::symlink_metadata(path)?.mode() & 0o7777);
    assert_eq!((mode(folder)?, mode(&control)?), (0o700, 0o600));
    // What a home lies in may be open to all.
    set_mode(home.root(), 0o755)?;
    set_mode(home.path(), 0o755)?;
    let (sockets, _) = sockets_and_folders(home.path())?;
    ensure!(sockets.contains(&control) && sockets.len() >= 3, "{sockets:?}");
    for socket in sockets {
        let refused = as_nobody(|| UnixStream::connect(&socket)).map(drop);
        assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::PermissionDenied), "{socket:?}");
    }
    stop(&home)
}

#[test]
fn another_user_who_can_reach_the_socket_is_refused_by_the_gateway() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        skip!("only root can be another user");
    }
    let home = started()?;
    let (sockets, folders) = sockets_and_folders(home.path())?;
    for folder in folders.iter().map(PathBuf::as_path).chain([home.root()]) {
        set_mode(folder, 0o777)?;
    }
    for socket in &sockets {
        set_mode(socket, 0o666)?;
    }
    let control = home.control_socket();
    for _ in 0..3 {
        let said = as_nobody(|| unix::connect(&control).and_then(heard)).context("the way is open")?;
        ensure!(said.is_empty(), "another user was told {:?}", String::from_utf8_lossy(&said));
        assert_eq!(heard(unix::connect(&control)?)?, b"HTTP/1.1 101");
    }
    // One who is refused costs the others nothing, however many they are.
    let unauthenticated =
        as_nobody(|| (0..200).map(|_| unix::connect(&control)).collect::<io::Result<Vec<_>>>())?;
    answered(&home)?;
    for client in unauthenticated {
        assert_eq!(heard(client)?, b"");
    }
    probe::ask(&control, "1", SOON)?;
    stop(&home)
}

fn stop(home: &Home) -> anyhow::Result<()> {
    Codexd::new(home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
