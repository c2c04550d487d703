//! What the gateway holds, looked at all the time.

use anyhow::{Context, ensure};
use codexd_testkit::process::Memory;
use codexd_testkit::{Process, until};

use super::super::fixture::{GatewayFixture, TIMEOUT};
use super::harness::Harness;

/// What the gateway may hold in the end beyond what it held before.
const GROWTH_MAX_KIB: u64 = 2 * 1024;
/// Descriptors for something else than clients, those of clients that have just left included.
const OTHER_DESCRIPTORS_MAX: usize = 64;
/// A part of all messages.
const PARTS: usize = 4;

/// One look.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The quarter of the messages in which it was taken.
    part: usize,
    memory: Memory,
    descriptors: usize,
}

/// All looks at the gateways.
#[derive(Debug, Default)]
pub(super) struct Samples {
    gateway: Option<Process>,
    samples: Vec<Sample>,
}

/// What was held in one quarter, in the median.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// What is its own for good: the pages of its program come and go as the machine likes.
    anonymous_kib: u64,
    resident_kib: u64,
    descriptors: usize,
}

impl Samples {
    /// Looks once, unless there is no gateway just now.
    pub(super) fn look(&mut self, fixture: &GatewayFixture, harness: &Harness) {
        if self.gateway.as_ref().is_none_or(|gateway| !gateway.is_alive()) {
            self.gateway = fixture.gateway().ok();
        }
        let Some(gateway) = &self.gateway else { return };
        if let (Ok(memory), Ok(descriptors)) = (gateway.memory(), gateway.descriptors()) {
            let part = (harness.sent() * PARTS / harness.limit).min(PARTS - 1);
            self.samples.push(Sample { part, memory, descriptors });
        }
    }

    /// What was held in a quarter, from 0.
    fn held(&self, part: usize) -> anyhow::Result<Held> {
        let of_part = || self.samples.iter().filter(|sample| sample.part == part);
        let look = "there is no sample";
        Ok(Held {
            anonymous_kib: median(of_part().map(|sample| sample.memory.anonymous_kib)).context(look)?,
            resident_kib: median(of_part().map(|sample| sample.memory.resident_kib)).context(look)?,
            descriptors: median(of_part().map(|sample| sample.descriptors)).context(look)?,
        })
    }

    /// Fails if it grew; says what was held in each quarter.
    pub(super) fn assert_flat(&self, clients: usize) -> anyhow::Result<String> {
        let said = |held: &Held| {
            let Held { anonymous_kib, resident_kib, descriptors } = held;
            format!("{anonymous_kib} KiB of {resident_kib} KiB and {descriptors} descriptors")
        };
        let held = (0..PARTS).map(|part| self.held(part)).collect::<anyhow::Result<Vec<_>>>()?;
        let (before, last) = (held[1], held[PARTS - 1]);
        ensure!(
            last.anonymous_kib <= before.anonymous_kib + GROWTH_MAX_KIB,
            "the gateway grew from {} KiB to {} KiB: {held:?}",
            before.anonymous_kib,
            last.anonymous_kib
        );
        // Every client may have a connection of its own to the app-server.
        let most = self.samples.iter().map(|sample| sample.descriptors).max().unwrap_or_default();
        ensure!(
            most <= 2 * clients + OTHER_DESCRIPTORS_MAX,
            "{most} descriptors for {clients} clients: {held:?}"
        );
        Ok(held.iter().map(said).collect::<Vec<_>>().join(", "))
    }
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// How many descriptors the gateway has.
pub(super) fn descriptors(fixture: &GatewayFixture) -> anyhow::Result<usize> {
    until(TIMEOUT, "a gateway", || fixture.gateway().ok())?.descriptors()
}

/// Waits until the gateway has no more descriptors than it had before anybody came.
pub(super) fn wait_descriptors(fixture: &GatewayFixture, before: usize) -> anyhow::Result<()> {
    let mut now = 0;
    let gone = until(TIMEOUT, "everybody's descriptors to be closed", || {
        now = descriptors(fixture).ok()?;
        (now <= before).then_some(())
    });
    gone.with_context(|| format!("{now} are open, {before} before anybody came"))
}
