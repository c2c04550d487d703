//! Memory of a process that is idle for weeks: code that ran once, and free heap.

/// Releases the resident pages of code. The kernel reads pages that are needed again from the page cache, some 16 at once.
///
/// Starting, parsing and serving a command touch far more code than waiting does: of the 4.4 MiB that a supervisor has resident
/// after a start, 3.3 MiB are such pages.
pub fn release_code_pages() {
    #[cfg(target_os = "linux")]
    advise_code(rustix::mm::Advice::LinuxDontNeed);
}

/// Gives the kernel advice that changes no content about all pages of code.
#[cfg(target_os = "linux")]
fn advise_code(advice: rustix::mm::Advice) {
    for (start, length) in
        std::fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().filter_map(code)
    {
        let start = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is one mapping of a file, readable and executable and never written to (`code` selects only these), so its
        // pages are those of the file: dropping or reading them changes no content. madvise(2) affects nothing outside the range; it
        // fails for a mapping that is gone.
        #[allow(unsafe_code)]
        let _ = unsafe { rustix::mm::madvise(start, length, advice) };
    }
}

/// Returns free heap memory to the system. The allocator itself returns only memory at the end of the heap, so one small block in use
/// there keeps all memory below it.
pub fn release_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim(3) takes the locks of the allocator and touches no memory in use.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The range of a line of `/proc/self/maps` that maps the code of a file: proc(5).
#[cfg(target_os = "linux")]
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions) = (words.next()?, words.next()?);
    let path = words.nth(3)?;
    if permissions != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{advise_code, code, release_code_pages};

    #[test]
    fn only_code_of_files_is_released() {
        let line = "55d0c0000000-55d0c0002000 r-xp 000cb000 fe:00 10125321                   /usr/bin/x";
        assert_eq!(code(line), Some((0x55d0_c000_0000, 0x2000)));
        for other in [
            "55d0c0000000-55d0c0002000 r--p 000cb000 fe:00 10125321  /usr/bin/x",
            "55d0c0000000-55d0c0002000 rwxp 000cb000 fe:00 10125321  /usr/bin/x",
            "7ffd2b5f2000-7ffd2b5f4000 r-xp 00000000 00:00 0          [vdso]",
            "7ffd2b5f2000-7ffd2b5f4000 rw-p 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn releasing_code_pages_reduces_resident_memory() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
            let line = status.lines().find(|line| line.starts_with("RssFile:")).expect("a line").to_owned();
            line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number")
        };
        // The code that runs after the release comes back, and how much that is depends on the layout of this binary.
        advise_code(rustix::mm::Advice::LinuxPopulateRead);
        let before = resident();
        release_code_pages();
        let after = resident();
        assert!(after < before / 4 * 3, "{after} KiB of {before} KiB");
    }
}
