//! "Did you mean …?": finds the candidate that a misspelled word is closest to.

/// A comparison is quadratic in the lengths of the words, and a file can hold very many names.
const MAX_CANDIDATES: usize = 200;

/// Returns the closest candidate that differs from `word` in at most a third of its letters. Case, `-`, `_` and spaces
/// are ignored.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = normalize(word);
    let limit = (typed.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .take(MAX_CANDIDATES)
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&typed, &normalize(candidate));
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A hint for an unknown `word`: the closest candidate, or else the list of candidates.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str, IntoIter: Clone>) -> String {
    let candidates = candidates.into_iter();
    if let Some(candidate) = closest(word, candidates.clone()) {
        return format!("did you mean `{candidate}`?");
    }
    let mut all: Vec<String> = candidates.clone().take(20).map(|candidate| format!("`{candidate}`")).collect();
    if candidates.count() > all.len() {
        all.push("…".to_owned());
    }
    match all.as_slice() {
        [one] => format!("write {one}"),
        _ => format!("write one of {}", all.join(", ")),
    }
}

fn normalize(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_similar_word_is_suggested() {
        let words = ["weight", "name", "address", "enabled", "body_idle"];
        for (word, expected) in [
            ("wieght", Some("weight")),
            ("Weight", Some("weight")),
            ("adress", Some("address")),
            ("enable", Some("enabled")),
            ("bodyIdle", Some("body_idle")),
            ("body-idle", Some("body_idle")),
            ("nome", Some("name")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(closest(word, words), expected, "{word}");
        }
        assert_eq!(hint("tru", ["true"]), "did you mean `true`?");
        assert_eq!(hint("x", ["http", "tcp"]), "write one of `http`, `tcp`");
        assert_eq!(hint("x", ["http"]), "write `http`");
    }
}
