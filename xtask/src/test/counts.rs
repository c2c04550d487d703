//! Counting tests in the closing lines of nextest and libtest.

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Passed, or returned early because they could not run.
    pub passed: usize,
    /// Failed, timed out, or could not be started.
    pub failed: usize,
    /// Not run because they are marked so.
    pub ignored: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl Counts {
    /// Adds what a line says, if it is a closing line.
    pub fn read_line(&mut self, line: &str) {
        let line = without_brackets(line);
        let nextest = line.trim_start().starts_with("Summary").then(|| line.split_once("run:")).flatten();
        // nextest indents what a test printed, which may be the closing line of a libtest of its own.
        let libtest = line.strip_prefix("test result:");
        let Some(rest) = nextest.map(|(_, rest)| rest).or(libtest) else { return };
        for part in rest.split([',', ';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(kind)) = (words.next(), words.next()) else { continue };
            let Ok(count) = count.parse::<usize>() else { continue };
            match kind {
                "passed" => self.passed += count,
                // "1 timed out", "1 exec failed"
                "failed" | "timed" | "exec" => self.failed += count,
                "ignored" | "skipped" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// The line without what is in brackets: times, and remarks such as "(1 slow, 1 leaky)".
fn without_brackets(line: &str) -> String {
    let mut depth = 0_usize;
    let outside = line.chars().filter(|letter| {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => {
                depth = depth.saturating_sub(1);
                return false;
            }
            _ => {}
        }
        depth == 0
    });
    outside.collect()
}

#[cfg(test)]
mod tests {
    use super::Counts;

    fn counted(line: &str) -> Counts {
        let mut counts = Counts::default();
        counts.read_line(line);
        counts
    }

    #[test]
    fn nextests_closing_line_is_read() {
        let line = "     Summary [   1.3s] 30 tests run: 27 passed (1 slow, 2 leaky), 2 failed, 1 timed out, 4 skipped";
        assert_eq!(counted(line), Counts { passed: 27, failed: 3, ignored: 4 });
    }

    #[test]
    fn libtests_closing_line_is_read() {
        let line = "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.00s";
        assert_eq!(counted(line), Counts { passed: 5, failed: 1, ignored: 2 });
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(counted("        PASS [   0.006s] 12 passed, 3 failed"), Counts::default());
        assert_eq!(counted("    test result: FAILED. 0 passed; 1 failed"), Counts::default());
    }
}
