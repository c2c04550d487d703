//! Numbers of things in sentences.

/// `count` and `noun`, which gets a plural ending unless the count is one: `1 thread`, `2 processes`.
pub fn counted(count: usize, noun: &str) -> String {
    match (count, noun.ends_with('s')) {
        (1, _) => format!("1 {noun}"),
        (_, true) => format!("{count} {noun}es"),
        (_, false) => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn nouns_have_a_plural_unless_there_is_one() {
        assert_eq!(counted(0, "thread"), "0 threads");
        assert_eq!(counted(1, "orphaned process"), "1 orphaned process");
        assert_eq!(counted(2, "orphaned process"), "2 orphaned processes");
    }
}
