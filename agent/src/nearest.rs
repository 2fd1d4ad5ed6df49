//! The right spelling that was probably meant.

/// The word of `known` that is most like `word`, when one is like it enough to be worth showing.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long text is no slip of a short word, and comparing it would cost.
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let wanted: Vec<char> = word.chars().map(|c| c.to_ascii_lowercase()).collect();
    let most = wanted.len().div_ceil(3).min(4);
    known
        .into_iter()
        .map(|candidate| (distance(&wanted, candidate), candidate))
        .filter(|(steps, _)| *steps <= most)
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, candidate)| candidate)
}

/// How many single characters must be put in, left out or exchanged; case does not count.
fn distance(word: &[char], other: &str) -> usize {
    let other: Vec<char> = other.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, character) in word.iter().enumerate() {
        let mut corner = row[0];
        row[0] = index + 1;
        for (place, wanted) in other.iter().enumerate() {
            let exchange = corner + usize::from(character != wanted);
            corner = row[place + 1];
            row[place + 1] = exchange.min(row[place] + 1).min(corner + 1);
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_finds_none() {
        let words = ["ingress", "egress", "selector", "mode", "from"];
        for (word, expected) in [
            ("ingres", Some("ingress")),
            ("Egress", Some("egress")),
            ("selectors", Some("selector")),
            ("mdoe", Some("mode")),
            ("form", Some("from")),
            ("spec", None),
            ("", None),
            (&"x".repeat(100), None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
    }
}
