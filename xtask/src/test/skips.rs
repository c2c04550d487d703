//! The skipped tests, and which of them the list of expected skips has.

/// The list, for people.
pub const LIST: &str = "xtask/expected-skips.txt";
const EXPECTED: &str = include_str!("../../expected-skips.txt");

/// Skipped tests, each as `test: reason`.
#[derive(Debug, Eq, PartialEq)]
pub struct Skips {
    /// Every one, sorted.
    pub all: Vec<String>,
    /// Those that are not on the list.
    pub unexpected: Vec<String>,
}

impl Skips {
    /// Reads the file that skipped tests write: `test<TAB>reason` in each line.
    pub fn read(skipped: &str) -> Skips {
        Skips::compare(skipped, EXPECTED)
    }

    fn compare(skipped: &str, expected: &str) -> Skips {
        let is_expected = |skip: &String| expected.lines().any(|line| line == skip);
        let mut all: Vec<String> = skipped.lines().map(|line| line.replacen('\t', ": ", 1)).collect();
        all.sort_unstable();
        let unexpected = all.iter().filter(|skip| !is_expected(skip)).cloned().collect();
        Skips { all, unexpected }
    }
}

#[cfg(test)]
mod tests {
    use super::Skips;

    #[test]
    fn a_skip_is_expected_only_if_the_list_has_its_test_and_its_reason() {
        let expected = "# why\na::b: no luck\n";
        let skips = Skips::compare("x::y\tno tmux\na::b\tno luck\na::b\tno root\n", expected);
        assert_eq!(skips.all, ["a::b: no luck", "a::b: no root", "x::y: no tmux"]);
        assert_eq!(skips.unexpected, ["a::b: no root", "x::y: no tmux"]);
        assert!(Skips::compare("", expected).unexpected.is_empty());
    }
}
