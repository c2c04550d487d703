//! Which of two versions is the newer one: by their numbers; a pre-release comes before its release.

use std::cmp::Ordering;

/// Compares two versions such as `0.171.0` and `0.171.0-alpha.2`, as semantic versioning does.
pub fn compare(one: &str, other: &str) -> Ordering {
    let parts = |version: &'_ str| {
        let version = version.split('+').next().unwrap_or_default().to_owned();
        match version.split_once('-') {
            Some((numbers, label)) => (numbers.to_owned(), Some(label.to_owned())),
            None => (version, None),
        }
    };
    let ((numbers, label), (other_numbers, other_label)) = (parts(one), parts(other));
    compare_parts(&numbers, &other_numbers).then_with(|| match (label, other_label) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(label), Some(other)) => compare_parts(&label, &other),
    })
}

/// Part by part; a number comes before a word, and less before more.
fn compare_parts(one: &str, other: &str) -> Ordering {
    let number = |part: &str| part.parse::<u64>().ok();
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        let order = match (ones.next(), others.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(other)) => match (number(one), number(other)) {
                (Some(one), Some(other)) => one.cmp(&other),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => one.cmp(other),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn versions_are_ordered_as_semantic_versioning_has_it() {
        let ordered = [
            "0.9.0",
            "0.131.0",
            "0.171.0-alpha",
            "0.171.0-alpha.2",
            "0.171.0-alpha.10",
            "0.171.0-beta",
            "0.171.0",
            "1.0.0",
        ];
        for pair in ordered.windows(2) {
            assert!(compare(pair[0], pair[1]).is_lt() && compare(pair[1], pair[0]).is_gt(), "{pair:?}");
        }
        assert!(compare("0.171.0", "0.171.0+x").is_eq());
    }
}
