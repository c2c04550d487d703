//! A list of steps that change the machine. It may be killed at any point and run again, and it undoes what it did when it fails.

use std::fmt::Debug;

use codexd_core::contract::Failure;

/// The variable that names the checkpoint at which a debug build kills itself: a number, counted from 1. For tests.
#[cfg(debug_assertions)]
const KILL_AT: &str = "CODEXD_KILL_AT_CHECKPOINT";

/// Something that is done in steps.
pub trait Procedure {
    /// One step.
    type Step: Copy + Debug;

    /// Whether the step has nothing to do.
    ///
    /// # Errors
    /// Why that cannot be found out.
    fn is_done(&mut self, step: Self::Step) -> Result<bool, Failure>;

    /// Does the step. What an earlier run left half done is no obstacle.
    ///
    /// # Errors
    /// Why it cannot be done.
    fn apply(&mut self, step: Self::Step) -> Result<(), Failure>;

    /// Restores what was before the step. The step may be half done.
    ///
    /// # Errors
    /// Why that is not possible.
    fn undo(&mut self, step: Self::Step) -> Result<(), Failure>;
}

/// Does the steps that are not done yet, in order. If one fails, it and those before it are undone, the last one first.
///
/// # Errors
/// The failure of the step. If an undo failed as well, the sentence names that.
pub fn run<P: Procedure>(procedure: &mut P, steps: &[P::Step]) -> Result<(), Failure> {
    let (mut applied, mut checkpoints) = (Vec::new(), Checkpoints::default());
    for &step in steps {
        let outcome = procedure.is_done(step).and_then(|is_done| {
            tracing::debug!(?step, is_done, "step");
            if is_done {
                return Ok(());
            }
            checkpoints.pass();
            applied.push(step);
            procedure.apply(step)?;
            checkpoints.pass();
            Ok(())
        });
        if let Err(failure) = outcome {
            return Err(undo(procedure, &applied, failure));
        }
    }
    Ok(())
}

/// Does the steps that are not done yet, in order, and undoes nothing: what is half done is completed by the next run.
///
/// # Errors
/// The failure of the step.
pub fn run_forward<P: Procedure>(procedure: &mut P, steps: &[P::Step]) -> Result<(), Failure> {
    let mut checkpoints = Checkpoints::default();
    for &step in steps {
        if !procedure.is_done(step)? {
            checkpoints.pass();
            procedure.apply(step)?;
            checkpoints.pass();
        }
    }
    Ok(())
}

fn undo<P: Procedure>(procedure: &mut P, applied: &[P::Step], mut failure: Failure) -> Failure {
    let mut not_undone = Vec::new();
    for &step in applied.iter().rev() {
        tracing::debug!(?step, "undo");
        if let Err(error) = procedure.undo(step) {
            not_undone.push(error.message);
        }
    }
    failure.message += match (applied.is_empty(), not_undone.is_empty()) {
        (true, _) => "; nothing has changed",
        (false, true) => "; the changes of this command were undone",
        (false, false) => "; not every change of this command could be undone: ",
    };
    failure.message += &not_undone.join("; ");
    failure
}

/// The points between steps.
#[derive(Debug, Default)]
struct Checkpoints {
    passed: u64,
}

impl Checkpoints {
    /// Ends this process as `kill -9` does, if the test wants that here.
    fn pass(&mut self) {
        self.passed += 1;
        #[cfg(debug_assertions)]
        if std::env::var(KILL_AT).is_ok_and(|at| at == self.passed.to_string()) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Procedure, run};
    use codexd_core::contract::{ErrorCode, Failure};

    #[derive(Default)]
    struct Recorded {
        done: Vec<u8>,
        fails_at: Option<u8>,
        log: Vec<String>,
    }

    impl Procedure for Recorded {
        type Step = u8;

        fn is_done(&mut self, step: u8) -> Result<bool, Failure> {
            Ok(self.done.contains(&step))
        }

        fn apply(&mut self, step: u8) -> Result<(), Failure> {
            self.log.push(format!("apply {step}"));
            match self.fails_at {
                Some(at) if at == step => Err(Failure::new(ErrorCode::Internal, "it failed")),
                _ => Ok(()),
            }
        }

        fn undo(&mut self, step: u8) -> Result<(), Failure> {
            self.log.push(format!("undo {step}"));
            if step == 9 { Err(Failure::new(ErrorCode::Internal, "cannot")) } else { Ok(()) }
        }
    }

    #[test]
    fn a_step_that_is_done_is_neither_done_again_nor_undone() {
        let mut procedure = Recorded { done: vec![2], fails_at: Some(3), ..Recorded::default() };
        let failure = run(&mut procedure, &[1, 2, 3, 4]).expect_err("step 3 fails");
        assert_eq!(procedure.log, ["apply 1", "apply 3", "undo 3", "undo 1"]);
        assert_eq!(failure.message, "it failed; the changes of this command were undone");
    }

    #[test]
    fn a_failed_undo_is_named_and_the_others_are_done() {
        let mut procedure = Recorded { fails_at: Some(3), ..Recorded::default() };
        let failure = run(&mut procedure, &[1, 9, 3]).expect_err("step 3 fails");
        assert_eq!(procedure.log, ["apply 1", "apply 9", "apply 3", "undo 3", "undo 9", "undo 1"]);
        assert!(failure.message.ends_with("could be undone: cannot"), "{}", failure.message);
        let mut procedure = Recorded { fails_at: Some(1), done: vec![1], ..Recorded::default() };
        run(&mut procedure, &[1]).expect("it is done");
    }
}
