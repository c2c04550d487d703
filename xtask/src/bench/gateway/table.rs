//! The results as a table of Markdown.

use std::fmt::Write;

use super::super::samples::Samples;

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    label: String,
    direct: Option<f64>,
    through: Option<f64>,
    unit: Unit,
    aim: Option<Aim>,
}

/// In what a line is measured.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
    /// Deltas per second at each viewer.
    Rate,
    /// KiB.
    Kib,
    /// MB, of a million bytes.
    Mb,
}

/// What a line should be.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// At most so many times direct.
    Times(f64),
    /// At least this share of direct.
    Share(f64),
    /// At least this share of another figure.
    ShareOf(f64, f64, &'static str),
    /// At most so much more than another figure.
    Beyond(f64, f64, &'static str),
    /// At most so large.
    AtMost(f64),
}

impl Row {
    /// A line with the medians of what was measured.
    pub fn new(
        label: impl Into<String>,
        direct: Option<&Samples>,
        through: Option<&Samples>,
        unit: Unit,
    ) -> Row {
        let middle = |samples: &Samples| samples.median();
        let (direct, through) = (direct.map(middle), through.map(middle));
        Row { label: label.into(), direct, through, unit, aim: None }
    }

    /// The same line with an aim.
    #[must_use]
    pub fn aiming(mut self, aim: Aim) -> Row {
        self.aim = Some(aim);
        self
    }

    fn cell(&self, value: Option<f64>) -> String {
        let Some(value) = value.filter(|value| value.is_finite()) else { return "–".to_owned() };
        match self.unit {
            Unit::Us => format!("{value:.0} µs"),
            Unit::Ms => format!("{value:.1} ms"),
            Unit::Rate => format!("{value:.0}/s"),
            Unit::Kib => format!("{value:.1} KiB"),
            Unit::Mb => format!("{value:.1} MB"),
        }
    }

    fn ratio(&self) -> String {
        match (self.direct, self.through) {
            (Some(direct), Some(through)) if direct > 0.0 => format!("{:.2}", through / direct),
            _ => "–".to_owned(),
        }
    }

    /// The aim in words, and whether it was reached.
    fn verdict(&self) -> (String, Option<bool>) {
        let (direct, through) = (self.direct.unwrap_or(f64::NAN), self.through.unwrap_or(f64::NAN));
        match self.aim {
            None => ("–".to_owned(), None),
            Some(Aim::Times(most)) => (format!("≤ {most} × direct"), Some(through <= direct * most)),
            Some(Aim::Share(least)) => {
                (format!("≥ {:.0} % of direct", least * 100.0), Some(through >= direct * least))
            }
            Some(Aim::ShareOf(least, whole, name)) => {
                let words = format!("≥ {:.0} % of {name}: {:.0} %", least * 100.0, through / whole * 100.0);
                (words, Some(through >= whole * least))
            }
            Some(Aim::Beyond(most, base, name)) => {
                let (words, added) = (self.cell(Some(most)), through - base);
                (format!("{name} + ≤ {words}: {}", self.cell(Some(added))), Some(added <= most))
            }
            Some(Aim::AtMost(most)) => (format!("≤ {}", self.cell(Some(most))), Some(through <= most)),
        }
    }
}

/// The table.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "Medians.\n\n| | direct | through the gateway | ratio | aim | reached |\n|---|--:|--:|--:|---|---|\n",
    );
    let measured = |row: &&Row| row.direct.or(row.through).is_some_and(f64::is_finite);
    for row in rows.iter().filter(measured) {
        let (aim, reached) = row.verdict();
        let reached = reached.map_or("–", |reached| if reached { "yes" } else { "**no**" });
        let (direct, through) = (row.cell(row.direct), row.cell(row.through));
        writeln!(text, "| {} | {direct} | {through} | {} | {aim} | {reached} |", row.label, row.ratio())
            .expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Aim, Row, Unit, markdown};
    use crate::bench::samples::Samples;

    fn one(value: f64) -> Samples {
        let mut samples = Samples::default();
        samples.push(value);
        samples
    }

    #[test]
    fn an_aim_is_held_beside_what_was_measured() {
        let rows = [
            Row::new("rate", Some(&one(100.0)), Some(&one(90.0)), Unit::Rate).aiming(Aim::Share(0.95)),
            Row::new("beyond", Some(&one(100.0)), Some(&one(150.0)), Unit::Us)
                .aiming(Aim::Beyond(30.0, 125.0, "copying")),
            Row::new("memory", None, Some(&one(9.0)), Unit::Mb),
        ];
        let text = markdown(&rows);
        assert!(text.contains("| rate | 100/s | 90/s | 0.90 | ≥ 95 % of direct | **no** |"), "{text}");
        assert!(
            text.contains("| beyond | 100 µs | 150 µs | 1.50 | copying + ≤ 30 µs: 25 µs | yes |"),
            "{text}"
        );
        assert!(text.contains("| memory | – | 9.0 MB | – | – | – |"), "{text}");
    }
}
