//! The nearest valid word for one that is not.

/// Below this similarity (0 to 1) a word is not worth naming.
const SIMILARITY_LEAST: f64 = 0.6;

/// The candidate that is most like `word`. `gateway.allow_non_loopback` and `listen` are like `gateway.allowNonLoopback` and
/// `gateway.listen`.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    let scored = candidates.map(|candidate| {
        let whole = plain(candidate);
        let last = whole.rsplit('.').next().unwrap_or_default();
        (strsim::jaro_winkler(&word, &whole).max(strsim::jaro_winkler(&word, last)), candidate)
    });
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (best.0 >= SIMILARITY_LEAST).then_some(best.1)
}

fn plain(word: &str) -> String {
    word.chars().filter(|letter| !matches!(letter, '_' | '-')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_word_of_another_style_or_a_part_of_a_key_leads_to_the_key() {
        let keys = ["gateway.listen", "gateway.allowNonLoopback", "umask", "nodeId"];
        let of = |word| nearest(word, keys.into_iter());
        assert_eq!(of("gateway.allow_non_loopback"), Some("gateway.allowNonLoopback"));
        assert_eq!(of("listen"), Some("gateway.listen"));
        assert_eq!(of("gatway.lisen"), Some("gateway.listen"));
        assert_eq!(of("node-id"), Some("nodeId"));
        assert_eq!(of("xyz"), None);
    }
}
