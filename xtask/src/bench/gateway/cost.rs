//! What a request and a delta cost the process in the middle: processor time over a count.

use std::fs;

use anyhow::Context;
use codexd_testkit::Process;
use serde_json::json;

use super::super::samples::Samples;
use super::measure;
use super::stage::Stage;

/// The first requests open connections and fill caches.
const WARM: usize = 100;

/// The cost in one process, in µs of processor time for each.
#[derive(Debug, Default)]
pub struct Cost {
    /// A `thread/goal/get`.
    pub hub: Samples,
    /// A `thread/loaded/list`, on the client's own connection.
    pub own: Samples,
    /// A delta at one viewer.
    pub delta: Samples,
}

/// Measures the process in the middle once more.
///
/// # Errors
/// A request fails, or there is no such process.
pub fn measure(stage: &Stage, calls: usize, deltas: usize, cost: &mut Cost) -> anyhow::Result<()> {
    let process = stage.in_the_middle()?;
    let mut client = stage.client()?;
    let thread = stage.thread(&mut client)?;
    let about = json!({"threadId": thread}).to_string();
    for (method, params, samples) in
        [("thread/goal/get", &*about, &mut cost.hub), ("thread/loaded/list", "{}", &mut cost.own)]
    {
        for _ in 0..WARM {
            client.round_trip(method, params)?;
        }
        let before = used_us(&process)?;
        for _ in 0..calls {
            client.round_trip(method, params)?;
        }
        samples.push(each(used_us(&process)? - before, calls));
    }
    let before = used_us(&process)?;
    measure::watched_turn(stage, 1, deltas)?;
    cost.delta.push(each(used_us(&process)? - before, deltas));
    Ok(())
}

#[expect(clippy::cast_precision_loss)]
fn each(us: f64, count: usize) -> f64 {
    us / count as f64
}

/// The processor time that the living threads of a process have used so far.
#[expect(clippy::cast_precision_loss)]
fn used_us(process: &Process) -> anyhow::Result<f64> {
    let mut nanoseconds: u64 = 0;
    for task in fs::read_dir(format!("/proc/{}/task", process.pid))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let used = text.split(' ').next().context("three numbers")?;
        nanoseconds += used.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e3)
}
