//! Close-on-exec for descriptors that a resident process inherited.

/// Marks every file descriptor above 2 close-on-exec, so that a child inherits 0, 1, 2 and what it is handed explicitly.
///
/// The process that starts codexd may have left descriptors open without that mark (a pipe of a shell, a lock of a test runner);
/// passed on to a server that lives for weeks they would hold a pipe or a lock for as long.
pub fn set_cloexec_above_stderr() {
    #[cfg(target_os = "linux")]
    {
        const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
        // SAFETY: close_range(2) with this flag closes nothing and touches no memory; it sets a flag on descriptors.
        // Before Linux 5.11 it fails and changes nothing, which is what upstream does everywhere.
        #[allow(unsafe_code)]
        unsafe {
            libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC);
        }
    }
}
