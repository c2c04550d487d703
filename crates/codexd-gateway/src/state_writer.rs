//! The thread that waits for the disk, so that the gateway's own thread never does: goals are synced, the event log has a lock,
//! and a slow disk takes a second for either.
//!
//! What has to be on disk before something else happens is acknowledged: the job itself tells its outcome.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::STATE_JOBS_WAITING_MAX;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the thread. The thread ends when the last handle is dropped and everything is done.
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
    /// State: of each name only the last job counts. They come first.
    named: VecDeque<(&'static str, Job)>,
    /// Everything else, in order.
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
    /// The system's.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let working = Arc::clone(&shared);
        thread::Builder::new().name("state-writer".to_owned()).spawn(move || working.work())?;
        Ok(Self { handle: Arc::new(Handle(shared)) })
    }

    /// Has something done, after what was given before; false if too much waits, and then it is not done.
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

    /// Has state written, before everything without a name and in place of what waits under the same name.
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

    /// Waits until everything is done, but not for longer than this; whether it is.
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

    /// A thread that does nothing else until told to.
    fn held_up() -> (StateWriter, mpsc::Sender<()>) {
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
    fn state_goes_first_and_only_its_last_version_is_written() {
        let (writer, go_on) = held_up();
        let (done, order) = mpsc::channel();
        let tell = |word: &'static str| {
            let done = done.clone();
            move || assert!(done.send(word).is_ok())
        };
        assert!(writer.run(tell("event")));
        writer.replace("goals", tell("old goals"));
        writer.replace("persona", tell("persona"));
        writer.replace("goals", tell("goals"));
        assert!(!writer.finish(Duration::from_millis(10)), "it waits");
        go_on.send(()).expect("it waits");
        assert!(writer.finish(LONG));
        assert_eq!(order.try_iter().collect::<Vec<_>>(), ["goals", "persona", "event"]);
    }

    #[test]
    fn what_waits_is_bounded_and_done_after_the_last_handle_is_gone() {
        let (writer, go_on) = held_up();
        let (done, count) = mpsc::channel();
        for _ in 0..STATE_JOBS_WAITING_MAX {
            let done = done.clone();
            assert!(writer.run(move || assert!(done.send(()).is_ok())));
        }
        assert!(!writer.run(|| {}), "too much waits");
        drop((writer, done));
        go_on.send(()).expect("it waits");
        assert_eq!(count.iter().count(), STATE_JOBS_WAITING_MAX);
    }
}
