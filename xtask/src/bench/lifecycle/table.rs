//! The results as a table of Markdown.

use std::fmt::Write;

use super::super::samples::Samples;
use super::{Operation, Results};

/// The rows, grouped: times of commands, the floors below them, memory.
const ROWS: [(Operation, &str, Unit); 17] = [
    (Operation::Version, "`version`, server running", Unit::Ms),
    (Operation::Status, "`status`, server running", Unit::Ms),
    (Operation::StartCold, "`start`, nothing running", Unit::Ms),
    (Operation::FloorStart, "floor: spawn until `initialize` is answered", Unit::Ms),
    (Operation::StartRunning, "`start`, server running", Unit::Ms),
    (Operation::StopNothing, "`stop`, nothing running", Unit::Ms),
    (Operation::Stop, "`stop`", Unit::Ms),
    (Operation::FloorStop, "floor: SIGTERM until the end", Unit::Ms),
    (Operation::Restart, "`restart`", Unit::Ms),
    (Operation::FloorRestart, "floor: both", Unit::Ms),
    (Operation::CrashToReady, "kill -9 of the server until another answers", Unit::Ms),
    (Operation::VersionPeak, "most memory of `version`", Unit::Mib),
    (Operation::StartPeak, "most memory of `start`, server running", Unit::Mib),
    (Operation::ResidentCount, "processes besides the server, everything on", Unit::Count),
    (Operation::Resident, "their resident memory", Unit::Mib),
    (Operation::ResidentPrivate, "of it private", Unit::Mib),
    (Operation::ResidentAnonymous, "of it never shareable (anonymous)", Unit::Mib),
];

#[derive(Clone, Copy, Eq, PartialEq)]
enum Unit {
    Ms,
    Mib,
    Count,
}

/// The table. `ours` is the place of codexd among the contestants; the ratio compares it with the better of the others.
pub fn markdown(names: &[String], ours: Option<usize>, results: &Results) -> String {
    let mut text = String::from("Median / 90th percentile.\n\n| |");
    for name in names {
        write!(text, " {name} |").expect("a String takes everything");
    }
    text.push_str(" bare server |");
    if ours.is_some() {
        text.push_str(" codexd : better other |");
    }
    let columns = names.len() + 2 + usize::from(ours.is_some());
    text.push_str(&format!("\n|---|{}\n", "--:|".repeat(columns - 1)));
    for (operation, label, unit) in ROWS {
        if let Some(row) = results.get(&operation) {
            write!(text, "| {label} |").expect("a String takes everything");
            for place in 0..=names.len() {
                write!(text, " {} |", cell(row.get(&place), unit)).expect("a String takes everything");
            }
            if let Some(ours) = ours {
                let others = row.iter().filter(|&(&place, _)| place != ours && place < names.len());
                let best = others.map(|(_, samples)| samples.median()).min_by(f64::total_cmp);
                write!(text, " {} |", ratio(row.get(&ours), best, unit)).expect("a String takes everything");
            }
            text.push('\n');
        }
    }
    text
}

fn cell(samples: Option<&Samples>, unit: Unit) -> String {
    let Some(samples) = samples.filter(|samples| !samples.is_empty()) else { return "–".to_owned() };
    match unit {
        Unit::Ms => format!("{:.1} / {:.1} ms", samples.median(), samples.p90()),
        Unit::Mib => format!("{:.1} MiB", samples.median()),
        Unit::Count => format!("{:.0}", samples.median()),
    }
}

fn ratio(ours: Option<&Samples>, best: Option<f64>, unit: Unit) -> String {
    match (ours, best) {
        (Some(ours), Some(best)) if best > 0.0 && unit != Unit::Count => {
            format!("{:.2}", ours.median() / best)
        }
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Operation, Results};
    use super::markdown;

    #[test]
    fn the_ratio_is_to_the_better_of_the_others() {
        let mut results = Results::new();
        for (place, value) in [(0, 2.0), (1, 8.0), (2, 4.0)] {
            results.entry(Operation::Stop).or_default().entry(place).or_default().push(value);
        }
        let names = ["codexd", "a", "b"].map(str::to_owned);
        let text = markdown(&names, Some(0), &results);
        let row = "| `stop` | 2.0 / 2.0 ms | 8.0 / 8.0 ms | 4.0 / 4.0 ms | – | 0.50 |\n";
        assert!(text.ends_with(row), "{text}");
    }
}
