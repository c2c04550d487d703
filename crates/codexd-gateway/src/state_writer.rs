//! The thread that writes to disk, so that the gateway's own thread never waits for it: goals are synced, the event log has a
//! lock, and a slow disk takes a second for either.
//!
//! A job reports its own outcome, for callers that must wait until its data is on disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::STATE_JOBS_WAITING_MAX;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the thread. The thread ends when the last handle is dropped and all jobs are done.
#[derive(Clone)]
pub struct StateWriter {
    handle: Arc<Handle>,
}

struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Jobs that write state, run first. A new job replaces a waiting one of the same name.
    named: VecDeque<(&'static str, Job)>,
    /// All other jobs, in order.
    plain: VecDeque<Job>,
    is_working: bool,
    is_closed: bool,
}

impl std::fmt::Debug for StateWriter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("StateWriter")
    }
}

impl StateWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let working = Arc::clone(&shared);
        thread::Builder::new().name("state-writer".to_owned()).spawn(move || working.work())?;
        Ok(Self { handle: Arc::new(Handle(shared)) })
    }

    /// Queues a job behind the others. Returns `false`, and drops the job, if too many wait.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let shared = &self.handle.0;
        let mut queue = shared.lock();
        if queue.plain.len() >= STATE_JOBS_WAITING_MAX {
            return false;
        }
        queue.plain.push_back(Box::new(job));
        shared.changed.notify_all();
        true
    }

    /// Queues a job that writes state, before all jobs without a name and in place of a waiting job of the same name.
    pub fn replace(&self, name: &'static str, job: impl FnOnce() + Send + 'static) {
        let shared = &self.handle.0;
        let mut queue = shared.lock();
        let job: Job = Box::new(job);
        match queue.named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, waiting)) => *waiting = job,
            None => queue.named.push_back((name, job)),
        }
        shared.changed.notify_all();
    }

    /// Waits until all jobs are done, for at most `within`. Returns whether they are.
    pub fn finish(&self, within: Duration) -> bool {
        let shared = &self.handle.0;
        let deadline = Instant::now() + within;
        let mut queue = shared.lock();
        while !queue.is_idle() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.named.is_empty() && self.plain.is_empty() && !self.is_working
    }

    fn next(&mut self) -> Option<Job> {
        self.named.pop_front().map(|(_, job)| job).or_else(|| self.plain.pop_front())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            match queue.next() {
                Some(job) => {
                    queue.is_working = true;
                    drop(queue);
                    job();
                    queue = self.lock();
                    queue.is_working = false;
                    self.changed.notify_all();
                }
                None if queue.is_closed => return,
                None => queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::StateWriter;
    use crate::limits::STATE_JOBS_WAITING_MAX;

    const LONG: Duration = Duration::from_secs(20);

    /// A writer whose thread is blocked until the sender is used.
    fn blocked() -> (StateWriter, mpsc::Sender<()>) {
        let writer = StateWriter::start().expect("a thread");
        let (go_on, wait) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        assert!(writer.run(move || {
            begun.send(()).expect("the test listens");
            let _ = wait.recv_timeout(LONG);
        }));
        begins.recv_timeout(LONG).expect("it begins");
        (writer, go_on)
    }

    #[test]
    fn state_is_written_first_and_only_its_last_version() {
        let (writer, go_on) = blocked();
        let (done, order) = mpsc::channel();
        let report = |name: &'static str| {
            let done = done.clone();
            move || assert!(done.send(name).is_ok())
        };
        assert!(writer.run(report("event")));
        writer.replace("goals", report("old goals"));
        writer.replace("identity", report("identity"));
        writer.replace("goals", report("goals"));
        assert!(!writer.finish(Duration::from_millis(10)), "it waits");
        go_on.send(()).expect("it waits");
        assert!(writer.finish(LONG));
        assert_eq!(order.try_iter().collect::<Vec<_>>(), ["goals", "identity", "event"]);
    }

    #[test]
    fn waiting_jobs_are_bounded_and_run_after_the_last_handle_is_dropped() {
        let (writer, go_on) = blocked();
        let (done, count) = mpsc::channel();
        for _ in 0..STATE_JOBS_WAITING_MAX {
            let done = done.clone();
            assert!(writer.run(move || assert!(done.send(()).is_ok())));
        }
        assert!(!writer.run(|| {}), "too many jobs wait");
        drop((writer, done));
        go_on.send(()).expect("it waits");
        assert_eq!(count.iter().count(), STATE_JOBS_WAITING_MAX);
    }
}
