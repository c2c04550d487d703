//! The process context of the supervisor and of all processes that it starts.
//!
//! The supervisor and its children run for weeks, the command that starts the supervisor for a second. On Linux a child inherits most
//! attributes of a process, over fork and exec, so each one is set here to a value that does not depend on the caller.
//! `docs/process-context.md` lists all of them, also those that no process can change for itself.

use std::io;
use std::mem::MaybeUninit;

use codexd_core::limits::{DESCRIPTORS_MAX, STACK_LIMIT_BYTES};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The umask of the supervisor and the gateway: only the owner may access their files.
const PRIVATE_UMASK: u32 = 0o077;
/// The kernel's own timer slack, in nanoseconds.
const TIMER_SLACK_NS: libc::c_ulong = 50_000;
/// `IOPRIO_WHO_PROCESS` of ioprio_set(2).
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// The highest signal number plus one.
const SIGNALS_END: libc::c_int = 65;

/// The soft limits that are raised to their hard limits.
const RAISED: [Resource; 9] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::As,
    Resource::Rss,
    Resource::Nproc,
    Resource::Memlock,
    Resource::Sigpending,
    Resource::Msgqueue,
];

/// An attribute that keeps the caller's value because the kernel refuses the change.
#[derive(Debug)]
pub struct Unchanged {
    /// Its name.
    pub attribute: &'static str,
    /// The reason.
    pub error: io::Error,
}

/// Sets every attribute that this process may set. Call it before starting a process or catching a signal. Returns the attributes whose change
/// the kernel refused: an unprivileged process cannot lower its niceness, for example.
pub fn normalize() -> Vec<Unchanged> {
    rustix::process::umask(Mode::from_raw_mode(PRIVATE_UMASK));
    let steps: [(&'static str, io::Result<()>); 8] = [
        ("signals", reset_signals()),
        ("resource limits", reset_limits()),
        ("niceness", reset_niceness()),
        ("scheduling policy", reset_scheduling()),
        ("I/O priority", reset_io_priority()),
        ("CPU affinity", reset_affinity()),
        ("OOM score adjustment", std::fs::write("/proc/self/oom_score_adj", "0")),
        ("timer slack and personality", reset_rest()),
    ];
    let refused = steps.into_iter().filter_map(|(attribute, result)| Some((attribute, result.err()?)));
    refused.map(|(attribute, error)| Unchanged { attribute, error }).collect()
}

/// Runs `start` with the umask of an app-server, which its tools inherit.
pub fn with_umask<T>(umask: u32, start: impl FnOnce() -> T) -> T {
    let before = rustix::process::umask(Mode::from_raw_mode(umask));
    let started = start();
    rustix::process::umask(before);
    started
}

/// No signal is blocked, and none is ignored but SIGPIPE, which Rust ignores in this process and resets in its children.
fn reset_signals() -> io::Result<()> {
    for signal in (1..SIGNALS_END).filter(|&signal| signal != libc::SIGPIPE) {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: sigaction(2) with a null pointer for the new action only writes the old one, into memory that is large
        // enough for it and that is zero, a valid value, if the call fails.
        #[allow(unsafe_code)]
        let mut action = unsafe {
            libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
            action.assume_init()
        };
        if action.sa_sigaction == libc::SIG_IGN {
            action.sa_sigaction = libc::SIG_DFL;
            // SAFETY: the action is the one that the kernel wrote, with the default disposition. Signals that cannot be
            // changed (SIGKILL, those of the C library) are never ignored.
            #[allow(unsafe_code)]
            unsafe {
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
    let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset(3) initializes the set, pthread_sigmask(3) reads it; the supervisor has one thread.
    #[allow(unsafe_code)]
    let error = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn reset_limits() -> io::Result<()> {
    let mut result = Ok(());
    let mut set = |resource, current: fn(Option<u64>) -> Option<u64>| {
        let limit = getrlimit(resource);
        let wanted = Rlimit { current: current(limit.maximum), ..limit };
        if wanted.current != limit.current
            && let Err(error) = setrlimit(resource, wanted)
        {
            result = Err(error.into());
        }
    };
    for resource in RAISED {
        set(resource, |hard| hard);
    }
    set(Resource::Nofile, |hard| Some(hard.map_or(DESCRIPTORS_MAX, |hard| hard.min(DESCRIPTORS_MAX))));
    set(Resource::Stack, |hard| Some(hard.map_or(STACK_LIMIT_BYTES, |hard| hard.min(STACK_LIMIT_BYTES))));
    // A core file of the server would hold its credentials.
    set(Resource::Core, |_| Some(0));
    result
}

fn reset_niceness() -> io::Result<()> {
    match rustix::process::getpriority_process(None)? {
        0 => Ok(()),
        _ => Ok(rustix::process::setpriority_process(None, 0)?),
    }
}

fn reset_scheduling() -> io::Result<()> {
    // SAFETY: sched_getscheduler(2) takes a number. sched_setscheduler(2) reads the parameter, which is all zeros, as the
    // ordinary policy wants it.
    #[allow(unsafe_code)]
    let result = unsafe {
        if libc::sched_getscheduler(0) == libc::SCHED_OTHER {
            return Ok(());
        }
        let parameter = MaybeUninit::<libc::sched_param>::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, parameter.as_ptr())
    };
    checked(result)
}

/// Class "none": the kernel derives the priority from the niceness.
fn reset_io_priority() -> io::Result<()> {
    // SAFETY: ioprio_set(2) takes three numbers.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0) };
    checked(i32::try_from(result).unwrap_or(-1))
}

/// Every CPU; the kernel leaves out those that the cpuset of the process does not have.
fn reset_affinity() -> io::Result<()> {
    let all = [u8::MAX; size_of::<libc::cpu_set_t>()];
    // SAFETY: sched_setaffinity(2) reads as many bytes as it is told, which is the size of the array.
    #[allow(unsafe_code)]
    let result = unsafe { libc::sched_setaffinity(0, all.len(), all.as_ptr().cast()) };
    checked(result)
}

fn reset_rest() -> io::Result<()> {
    // SAFETY: both calls take numbers.
    #[allow(unsafe_code)]
    let (slack, personality) =
        unsafe { (libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS), libc::personality(0)) };
    checked(slack).and(checked(personality))
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
