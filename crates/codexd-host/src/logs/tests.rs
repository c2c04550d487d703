//! Rotation, the ends of logs, and following.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Follower, Rotation, last_bytes, open_for_append, rotate_if_larger, rotated, tail, with_suffix};

struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
    file: File,
    /// The number of the next line.
    next: usize,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.log");
        let file = open_for_append(&path).expect("opened");
        Self { _folder: folder, path, file, next: 0 }
    }

    fn lines(&mut self, count: usize) {
        let text: String = (self.next..self.next + count).map(|line| format!("line {line}\n")).collect();
        self.file.write_all(text.as_bytes()).expect("written");
        self.next += count;
    }

    fn length(&self) -> u64 {
        length(&self.path)
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("there").len()
}

fn numbered(lines: std::ops::Range<usize>) -> Vec<String> {
    lines.map(|line| format!("line {line}")).collect()
}

fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let bytes = super::last_lines(path, count);
    String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn a_rotation_keeps_as_much_as_two_files_may_hold_and_the_writer_continues() {
    for count in [28_400, 30_000, 300_000] {
        let mut log = Log::new();
        log.lines(count);
        let written = log.length();
        let Rotation::Moved { dropped } = rotate_if_larger(&log.path, 300_000).expect("rotated") else {
            panic!("it is larger");
        };
        log.lines(1);
        assert!(log.length() < 100_000);
        assert!(length(&rotated(&log.path)) <= 300_000, "the older one is bounded as well");
        let after = format!("line {count}\n").len() as u64;
        assert_eq!(
            length(&rotated(&log.path)) + log.length() + dropped,
            written + after,
            "all is accounted for"
        );
        assert!(matches!(rotate_if_larger(&log.path, 300_000), Ok(Rotation::NotNeeded)), "small again");
        let lines = last_lines(&log.path, count + 2);
        // The first line may be incomplete.
        let first = count + 1 - (lines.len() - 1);
        assert_eq!(lines[1..], numbered(first..count + 1));
        assert!(!with_suffix(&rotated(&log.path), ".tmp").exists());
    }
}

#[test]
fn a_log_that_cannot_be_moved_stays_until_it_is_far_too_large() {
    let in_the_way: [fn(&Path) -> PathBuf; 2] =
        [|older| older.to_owned(), |older| with_suffix(older, ".tmp")];
    for in_the_way in in_the_way {
        let mut log = Log::new();
        let older = rotated(&log.path);
        fs::write(&older, "older").expect("written");
        let in_the_way = in_the_way(&older);
        let _ = fs::remove_file(&in_the_way);
        fs::create_dir(&in_the_way).expect("in the way");
        log.lines(30_000);
        let before = log.length();
        rotate_if_larger(&log.path, 100_000).expect_err("not kept");
        assert_eq!(log.length(), before);
        if older.is_file() {
            assert_eq!(fs::read_to_string(&older).expect("there"), "older");
        }
        assert_eq!(
            fs::read_dir(log.path.parent().expect("a folder")).expect("listed").count(),
            2 + usize::from(older.is_file())
        );

        log.lines(20_000);
        let before = log.length();
        let rotation = rotate_if_larger(&log.path, 100_000).expect("cut");
        let Rotation::Cut { dropped, .. } = rotation else { panic!("{rotation:?}") };
        assert_eq!(log.length() + dropped, before);
        assert!(log.length() < 200_000, "the disk is freed");
        log.lines(1);
        assert_eq!(last_lines(&log.path, 1), ["line 50000"]);
    }
}

#[test]
fn the_tail_has_only_the_output_of_this_server() {
    let mut log = Log::new();
    writeln!(log.file, "of the one before").expect("written");
    let from = log.length();
    writeln!(log.file, "mine").expect("written");
    assert_eq!(tail(&log.path, from, 4096), "mine");
    assert_eq!(tail(&log.path, 0, 5), "mine");
    assert_eq!(tail(&log.path.join("none"), 0, 5), "");
}

#[test]
fn the_last_lines_do_not_depend_on_where_the_files_are_split() {
    let text = "one\n\nthree\nfour";
    for end in ["", "\n"] {
        let text = format!("{text}{end}");
        for split in 0..=text.len() {
            let log = Log::new();
            fs::write(rotated(&log.path), &text[..split]).expect("written");
            fs::write(&log.path, &text[split..]).expect("written");
            for count in 0..6 {
                let expected: Vec<&str> = text.lines().collect();
                assert_eq!(
                    last_lines(&log.path, count),
                    expected[4usize.saturating_sub(count)..],
                    "{split} {count}"
                );
            }
        }
    }
}

#[test]
fn only_the_end_of_a_huge_log_is_read() {
    let mut log = Log::new();
    log.file.set_len(1 << 36).expect("a hole");
    writeln!(log.file).expect("written");
    log.lines(100);
    assert_eq!(last_lines(&log.path, 5), numbered(95..100));
    let end = last_bytes(&log.path, log.length(), 1_000_000, 150_000);
    assert_eq!(end.len(), 150_000, "however many lines are asked for");
    assert!(end.ends_with(b"line 99\n"));
}

/// As on a file system that cannot collapse the front of a file.
fn rotate_by_copy(path: &Path) {
    let beside = with_suffix(&rotated(path), ".tmp");
    fs::copy(path, &beside).expect("copied");
    fs::rename(beside, rotated(path)).expect("renamed");
    File::options().write(true).open(path).and_then(|file| file.set_len(0)).expect("emptied");
}

#[test]
fn a_follower_shows_every_line_once_over_every_kind_of_rotation() {
    // Lines that are written before the rotation without being read, and after it before the next read.
    for (unseen, after) in [(0, 0), (0, 10), (10, 0), (3_000, 10), (8_000, 4_000), (0, 30_000), (0, 40_000)] {
        for by_copy in [false, true] {
            let mut log = Log::new();
            log.lines(15_000);
            let mut follower = Follower::open(&log.path).expect("opened");
            let mut out = follower.last_lines(3);
            for _ in 0..3 {
                log.lines(5_000);
                follower.copy_new(&mut out).expect("followed");
                log.lines(unseen);
                match by_copy {
                    true => rotate_by_copy(&log.path),
                    false => drop(rotate_if_larger(&log.path, 200_000)),
                }
                log.lines(after);
                follower.copy_new(&mut out).expect("followed");
                follower.copy_new(&mut out).expect("nothing new");
            }
            let text = String::from_utf8(out).expect("text");
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines, numbered(14_997..log.next), "{unseen} {after} {by_copy}");
        }
    }
}

#[test]
fn a_follower_of_a_log_that_was_truncated_by_hand_shows_no_old_line() {
    let mut log = Log::new();
    fs::write(rotated(&log.path), "old\n").expect("written");
    log.lines(10);
    let mut follower = Follower::open(&log.path).expect("opened");
    log.file.set_len(0).expect("cut");
    log.lines(1);
    let mut out = Vec::new();
    follower.copy_new(&mut out).expect("followed");
    assert_eq!(out, b"line 10\n");
}
