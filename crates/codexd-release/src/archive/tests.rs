//! Archives that a package must not be.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use super::{Bounds, unpack};
use crate::error::InstallError;

const SMALL: Bounds = Bounds { archive_bytes: 1 << 20, unpacked_bytes: 1 << 20, entries: 100 };

/// An entry whose name goes into the header as it is.
fn entry(kind: EntryType, name: &str, target: &str, contents: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_size(contents.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(contents);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, contents: &[u8]) -> Vec<u8> {
    entry(EntryType::Regular, name, "", contents)
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Symlink, name, target, b"")
}

struct Packed {
    folder: tempfile::TempDir,
    archive: PathBuf,
}

fn pack(entries: &[Vec<u8>]) -> Packed {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("p.tgz");
    let mut gzip = GzEncoder::new(File::create(&archive).expect("made"), Compression::fast());
    for bytes in entries {
        gzip.write_all(bytes).expect("written");
    }
    gzip.write_all(&[0; 1024]).expect("written");
    gzip.finish().expect("finished");
    Packed { folder, archive }
}

impl Packed {
    fn unpacked(&self) -> PathBuf {
        self.folder.path().join("into")
    }

    fn unpack(&self, bounds: Bounds) -> Result<(), InstallError> {
        fs::create_dir(self.unpacked()).expect("made");
        unpack(&self.archive, &self.unpacked(), bounds, &mut |_| {})
    }

    /// Why it is refused; nothing beside the folder has changed.
    fn refused(&self) -> String {
        let error = self.unpack(SMALL).expect_err("refused").to_string();
        let mut beside: Vec<_> = fs::read_dir(self.folder.path())
            .expect("listed")
            .map(|entry| entry.expect("read").file_name())
            .collect();
        beside.sort();
        assert_eq!(beside, ["into", "p.tgz"]);
        error
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

#[test]
fn files_folders_and_links_inside_are_unpacked_with_plain_modes() {
    let long = format!("{}/{}", "a".repeat(90), "b".repeat(90));
    let record = format!(" path={long}\n");
    let record = format!("{}{record}", record.len() + 3);
    let packed = pack(&[
        entry(EntryType::Directory, "./bin/", "", b""),
        file("bin/codex", b"one"),
        link("codex", "bin/codex"),
        link("bin/up", "../bin/codex"),
        entry(EntryType::XHeader, "x", "", record.as_bytes()),
        file("short", b"two"),
        entry(EntryType::GNULongName, "././@LongLink", "", b"gnu/long\0"),
        file("short", b"three"),
    ]);
    packed.unpack(SMALL).expect("unpacked");
    let at = |name: &str| packed.unpacked().join(name);
    assert_eq!(fs::read(at("codex")).expect("read"), b"one");
    assert_eq!(fs::read(at("bin/up")).expect("read"), b"one");
    assert_eq!(fs::read(at(&long)).expect("read"), b"two");
    assert_eq!(fs::read(at("gnu/long")).expect("read"), b"three");
    assert_eq!((mode(&at("bin/codex")), mode(&at("bin"))), (0o755, 0o755), "no setuid bit");
}

#[test]
fn paths_and_links_that_leave_the_package_are_refused() {
    for (entries, why) in [
        (vec![file("../x", b"")], "leaves the package"),
        (vec![file("a/../../x", b"")], "leaves the package"),
        (vec![file("/tmp/x", b"")], "leaves the package"),
        (vec![link("x", "/etc")], "leaves the package"),
        (vec![link("x", "..")], "leaves the package"),
        (vec![link("a/x", "../../y")], "leaves the package"),
        (vec![link("a/b/x", "../.."), link("z", "a/b/x/../q")], "leaves the package"),
        (vec![link("x", "a"), file("x/y", b"")], "behind a link"),
        (vec![link("x", "a"), entry(EntryType::Directory, "x", "", b"")], "behind a link"),
        (vec![file("x", b""), file("x", b"")], "twice"),
        (vec![file("x", b""), file("x/y", b"")], "twice"),
        (vec![file("x/y", b""), link("x", "z")], "twice"),
        (vec![file("x/y", b""), file("x", b"")], "twice"),
        (vec![entry(EntryType::Link, "x", "p.tgz", b"")], "a hard link"),
        (vec![entry(EntryType::Char, "x", "", b"")], "a device"),
        (vec![entry(EntryType::Fifo, "x", "", b"")], "a FIFO"),
        (vec![entry(EntryType::XHeader, "x", "", b"13 path=../x\n"), file("y", b"")], "leaves the package"),
        (vec![entry(EntryType::XHeader, "x", "", b"99 path=x\n"), file("y", b"")], "extended header"),
    ] {
        let refused = pack(&entries).refused();
        assert!(refused.contains(why), "{refused}: not {why}");
    }
}

#[test]
fn a_bomb_is_stopped_at_its_limit() {
    let bomb = pack(&[file("x", &vec![0; 4 << 20])]);
    assert!(matches!(bomb.unpack(SMALL), Err(InstallError::TooLarge { .. })));
    let written = fs::metadata(bomb.unpacked().join("x")).expect("begun").len();
    assert!(written <= SMALL.unpacked_bytes, "{written} bytes were written");
    let many: Vec<Vec<u8>> = (0..200).map(|n| file(&format!("f{n}"), b"")).collect();
    assert!(matches!(pack(&many).unpack(SMALL), Err(InstallError::TooLarge { .. })));
    let large = Bounds { archive_bytes: 10, ..SMALL };
    assert!(matches!(pack(&[file("x", b"")]).unpack(large), Err(InstallError::TooLarge { .. })));
    let mut name = entry(EntryType::GNULongName, "x", "", &vec![b'a'; 100 << 10]);
    name.extend(file("x", b""));
    assert!(pack(&[name]).refused().contains("a header of"));
}

#[test]
fn a_truncated_or_changed_archive_is_refused() {
    let good = pack(&[file("x", &(0..40_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())]);
    let bytes = fs::read(&good.archive).expect("read");
    for length in [0, 5, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&good.archive, &bytes[..length]).expect("written");
        assert!(matches!(good.unpack(SMALL), Err(InstallError::ArchiveInvalid { .. })), "{length} bytes");
        fs::remove_file(good.unpacked().join("x"))
            .or_else(|_| fs::metadata(good.unpacked()).map(drop))
            .expect("removed");
        fs::remove_dir(good.unpacked()).expect("empty");
    }
    let mut changed = bytes;
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(&good.archive, changed).expect("written");
    assert!(matches!(good.unpack(SMALL), Err(InstallError::ArchiveInvalid { .. })));
}
