//! Where and when a measurement was taken.

use std::fs;

/// One line about the machine and the hour, and the load that was there before.
pub fn describe(load_before: &str) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let today = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M").to_string();
    format!(
        "{today}, {cores} cores{}, Linux {}, load average {load_before} before and {} after",
        model.map_or(String::new(), |(_, name)| format!(" of {name}")),
        kernel.trim(),
        load(),
    )
}

/// The load average of the last minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
