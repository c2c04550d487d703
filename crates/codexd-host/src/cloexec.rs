//! Close-on-exec for inherited descriptors.

/// Marks every descriptor above 2 close-on-exec, so that a child inherits only 0, 1, 2 and explicitly passed descriptors.
///
/// The process that starts codexd may have left descriptors open without that flag (a pipe of a shell, a lock of a test runner). A server that
/// inherits them would keep the pipe or the lock for weeks.
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
