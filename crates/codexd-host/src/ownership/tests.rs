use super::{Folder, ForeignOwner, bind, check_below, open_file};
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};

const APPEND: OFlags = OFlags::WRONLY.union(OFlags::APPEND).union(OFlags::CREATE);

#[test]
fn a_link_of_this_user_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (link, target) = (folder.path().join("link"), folder.path().join("target"));
    symlink("target", &link).expect("a link");
    open_file(&link, APPEND).expect("made").write_all(b"text").expect("written");
    let mut text = String::new();
    open_file(&link, OFlags::RDONLY).expect("opened").read_to_string(&mut text).expect("read");
    assert_eq!((text.as_str(), fs::read_to_string(target).expect("there").as_str()), ("text", "text"));
    let outer = tempfile::tempdir().expect("a folder");
    symlink(folder.path(), outer.path().join("link")).expect("a link");
    open_file(&outer.path().join("link/target"), OFlags::RDONLY).expect("through a linked folder");
}

#[test]
fn only_regular_files_are_opened_without_blocking() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    rustix::fs::mkfifoat(CWD, path("fifo"), Mode::RWXU).expect("made");
    fs::create_dir(path("folder")).expect("made");
    let _socket = bind(&path("socket")).expect("bound");
    symlink(path("fifo"), path("link")).expect("a link");
    for name in ["fifo", "folder", "socket", "link"] {
        for flags in [OFlags::RDONLY, APPEND, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE] {
            let error = open_file(&path(name), flags).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[test]
fn an_opened_file_is_blocking_for_a_child_that_inherits_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = open_file(&folder.path().join("log"), APPEND).expect("made");
    let status = rustix::fs::fcntl_getfl(&file).expect("read");
    assert!(status.contains(OFlags::APPEND) && !status.contains(OFlags::NONBLOCK));
    assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_folder_is_made_private() {
    let folder = tempfile::tempdir().expect("a folder");
    for (before, after) in [(0o777, 0o700), (0o755, 0o700), (0o000, 0o700), (0o500, 0o500)] {
        fs::set_permissions(folder.path(), Permissions::from_mode(before)).expect("set");
        Folder::open_own(folder.path()).expect("opened").make_private().expect("closed");
        let mode = fs::metadata(folder.path()).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, after, "from {before:o}");
    }
}

#[test]
fn a_file_below_a_folder_writable_by_all_is_not_trusted() {
    let home = tempfile::tempdir().expect("a folder");
    let inner = home.path().join("packages/current");
    fs::create_dir_all(&inner).expect("made");
    let file = inner.join("codex");
    fs::write(&file, "").expect("written");
    check_below(home.path(), &file).expect("all of this user");
    fs::set_permissions(home.path().join("packages"), Permissions::from_mode(0o777)).expect("opened");
    let error = check_below(home.path(), &file).expect_err("open to all");
    assert!(error.to_string().contains("packages"), "{error}");
}

#[test]
fn an_error_names_the_owner() {
    let foreign = ForeignOwner { path: "/h/x".into(), uid: 4_000_000 };
    let error = std::io::Error::from(foreign.clone());
    assert_eq!((error.kind(), ForeignOwner::of(&error)), (ErrorKind::PermissionDenied, Some(&foreign)));
    assert_eq!(error.to_string(), "/h/x belongs to uid 4000000");
    assert_eq!(ForeignOwner::of(&ErrorKind::PermissionDenied.into()), None);
}
