//! Text that may contain a secret: the user part of a URL is never shown.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize, Serializer};

/// Shown in place of a secret.
const MASK: &str = "***";

/// The URL of a trace collector. It may contain a password or come from the environment, so it is shown in another form.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct CollectorUrl {
    url: String,
    shown: String,
}

impl CollectorUrl {
    /// The URL itself, to send to; not to be shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.url
    }

    /// Shows the text of the file, which refers to the environment, instead of the URL.
    #[must_use]
    pub(crate) fn shown_as(self, typed: &str) -> Self {
        Self { shown: mask(typed).into_owned(), ..self }
    }

    /// Whether two URLs look alike and a part of them is not shown.
    pub(crate) fn alike_but_hidden(&self, other: &Self) -> bool {
        self.shown == other.shown && self.shown.contains(MASK)
    }

    /// Whether two URLs that look alike differ in what is not shown. Unknown, and so `false`, for one that was read in the
    /// form that is shown.
    pub(crate) fn differs_unseen(&self, other: &Self) -> bool {
        let is_known = |url: &Self| url.url != url.shown || !url.url.contains(MASK);
        self.shown == other.shown && self.url != other.url && is_known(self) && is_known(other)
    }
}

impl<T: Into<String>> From<T> for CollectorUrl {
    fn from(url: T) -> Self {
        let url = url.into();
        Self { shown: mask(&url).into_owned(), url }
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

impl Serialize for CollectorUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}

/// Replaces the user part of every URL in a text.
#[must_use]
pub fn mask(text: &str) -> Cow<'_, str> {
    let ranges = mask_ranges(text);
    if ranges.is_empty() {
        return text.into();
    }
    let mut masked = String::with_capacity(text.len());
    let mut copied = 0;
    for Range { start, end } in ranges {
        masked.push_str(&text[copied..start]);
        masked.push_str(MASK);
        copied = end;
    }
    masked.push_str(&text[copied..]);
    masked.into()
}

/// The user parts of the URLs in a text, in order: before an `@`, after `://`, or with a `:` in it.
pub(crate) fn mask_ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut from = 0;
    while from < text.len() {
        let end = text[from..].find(ends_url).map_or(text.len(), |at| from + at);
        let found = user_part(text, from..end);
        from = found.as_ref().map_or(end, |found| found.end.max(end));
        from += text[from..].chars().next().map_or(0, char::len_utf8);
        ranges.extend(found);
    }
    ranges
}

/// A password may contain any other character.
fn ends_url(c: char) -> bool {
    c.is_whitespace() || ends_string(c)
}

fn ends_string(c: char) -> bool {
    matches!(c, '"' | '`' | '\n')
}

/// The user part of the URL in a word.
fn user_part(text: &str, word: Range<usize>) -> Option<Range<usize>> {
    let slashes = text[word.clone()].find("//").map(|at| word.start + at);
    let has_scheme = slashes.is_some_and(|at| text[word.start..at].ends_with(':'));
    let from = slashes.map_or(word.start, |at| at + 2);
    let rest = &text[from..word.end];
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // A password with a `/` or a space that should have been escaped looks like a port that is not a number.
    let odd_port = || {
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        !port.is_empty() && port.parse::<u16>().is_err()
    };
    let user = match authority.rfind('@') {
        Some(at) => &authority[..at],
        None if slashes.is_some() && odd_port() => {
            let string = &text[from..];
            let string = &string[..string.find(ends_string).unwrap_or(string.len())];
            // The next word may be a URL of its own.
            let string = &string[..string.find("://").unwrap_or(string.len())];
            &string[..string.rfind('@')?]
        }
        None => return None,
    };
    // Without a scheme, an `@` alone is no URL. A reference to the environment is not a secret.
    let is_secret = !user.is_empty() && (has_scheme || user.contains(':')) && !only_references(user);
    // Already masked.
    (is_secret && user != MASK).then(|| from..from + user.len())
}

/// Whether a user part consists of `${NAME}`, or of two with a `:` between them.
fn only_references(user: &str) -> bool {
    let is_reference = |part: &str| {
        let name = part.strip_prefix("${").and_then(|part| part.strip_suffix('}'));
        name.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    };
    user.split(':').all(is_reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_part_of_a_url_is_masked() {
        for (text, shown) in [
            ("http://user:pw@host:1/x", "http://***@host:1/x"),
            ("http://token@host", "http://***@host"),
            ("a `http://u:p@h` b http://v:q@i", "a `http://***@h` b http://***@i"),
            ("zipkin = \"http://u:p@h/\" # 'http://u:p@h'", "zipkin = \"http://***@h/\" # 'http://***@h'"),
            ("http://u:p@w@h/x", "http://***@h/x"),
            ("http://u:p/w@h/x", "http://***@h/x"),
            ("http://u:p?w#x@h/x", "http://***@h/x"),
            ("http://u:a,b'c@h", "http://***@h"),
            ("`http://u:p w@h` x", "`http://***@h` x"),
            ("//u:p@h/x", "//***@h/x"),
            ("http://h:x http://u:p@h", "http://h:x http://***@h"),
            ("user:pw@host:80", "***@host:80"),
            ("http://${AUTH}@h", "http://${AUTH}@h"),
            ("http://${USER}:${PASSWORD}@h", "http://${USER}:${PASSWORD}@h"),
            ("http://${AUTH:-u:p}@h", "http://***@h"),
            ("http://u:${PASSWORD}@h", "http://***@h"),
            ("ü http://ü:ö@h ü", "ü http://***@h ü"),
            ("http://h:9411/a@b", "http://h:9411/a@b"),
            ("http://h/x", "http://h/x"),
            ("# mail: bob@example.com", "# mail: bob@example.com"),
            ("http://@h", "http://@h"),
            ("http://***@h", "http://***@h"),
            ("", ""),
        ] {
            assert_eq!(mask(text), shown, "{text}");
            assert_eq!(mask(&mask(text)), shown, "{text}");
        }
    }

    #[test]
    fn no_form_of_a_collector_url_shows_its_secret() {
        let url = CollectorUrl::from("http://u:secret@h/");
        let json = serde_json::to_string(&url).expect("JSON");
        for shown in [url.to_string(), format!("{url:?}"), json.clone()] {
            assert!(shown.contains("http://***@h/") && !shown.contains("secret"), "{shown}");
        }
        assert_eq!(url.expose(), "http://u:secret@h/");
        let other = CollectorUrl::from("http://u:changed@h/");
        assert!(url.differs_unseen(&other) && !url.differs_unseen(&url));
        let read: CollectorUrl = serde_json::from_str(&json).expect("text");
        assert!(!read.differs_unseen(&url) && !url.differs_unseen(&read));
        assert!(read.alike_but_hidden(&url) && !url.alike_but_hidden(&CollectorUrl::from("http://u:p@i/")));
        assert!(!CollectorUrl::from("http://h/").alike_but_hidden(&CollectorUrl::from("http://h/")));
    }
}
