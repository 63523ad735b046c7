//! Path normalisation (RFC 3986, section 6.2.2), so that routes match the resource that a path means. Pure.

use std::borrow::Cow;

use crate::http1::rejection::Rejection;

/// Decodes escapes of unreserved characters and removes dot segments. A path that needs neither is
/// borrowed.
///
/// All other bytes stay as they are: an escaped `/` is not a `/`, an empty segment is a segment, and
/// escapes keep the case of their digits, because the path may be covered by a signature.
///
/// # Errors
/// [`Rejection::TargetForm`] unless the path starts with `/`, [`Rejection::TargetBytes`],
/// [`Rejection::BadEscape`], [`Rejection::Overlong`], and [`Rejection::AboveRoot`]: RFC 3986 would stop at
/// the root, but such a path is an attempt to find a server that does not.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, Rejection> {
    if !path.starts_with('/') {
        return Err(Rejection::TargetForm);
    }
    let changes = inspect(path.as_bytes())?;
    let decoded = if changes.unreserved { Cow::Owned(decode_unreserved(path)) } else { Cow::Borrowed(path) };
    if changes.dots || changes.unreserved { remove_dot_segments(&decoded).map(Cow::Owned) } else { Ok(decoded) }
}

/// Checks that a query may be forwarded. It is never normalised.
///
/// # Errors
/// [`Rejection::TargetBytes`].
pub fn check_query(query: &str) -> Result<(), Rejection> {
    if query.bytes().all(is_target_byte) { Ok(()) } else { Err(Rejection::TargetBytes) }
}

/// The changes that a path needs.
#[derive(Default)]
struct PathChanges {
    /// There are escapes of unreserved characters.
    unreserved: bool,
    /// There are dot segments, not counting escaped ones.
    dots: bool,
}

fn inspect(mut rest: &[u8]) -> Result<PathChanges, Rejection> {
    let mut changes = PathChanges::default();
    loop {
        rest = match rest {
            [] => return Ok(changes),
            [b'%', ..] => {
                let (byte, after) = decode_escape(rest).filter(|(byte, _)| *byte != 0).ok_or(Rejection::BadEscape)?;
                if starts_overlong(byte, after) {
                    return Err(Rejection::Overlong);
                }
                changes.unreserved |= is_unreserved(byte);
                after
            }
            [b'/', after @ ..] => {
                changes.dots |= starts_with_dot_segment(after);
                after
            }
            [byte, after @ ..] if is_target_byte(*byte) && *byte != b'?' => after,
            _ => return Err(Rejection::TargetBytes),
        };
    }
}

/// Returns the byte that the escape at the start of `text` encodes, and the text after the escape.
fn decode_escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, after @ ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(*high)? << 4 | digit(*low)?, after))
}

/// Whether the escape of `first` and the escape at the start of `after` begin a longer encoding than UTF-8 has for
/// the character (RFC 3629, section 3): a lenient decoder would see a `/` or a `.` that we do not. Other bytes that
/// are not UTF-8 are no such danger: they are text in another encoding, or a name of a file.
fn starts_overlong(first: u8, after: &[u8]) -> bool {
    if first < 0xc0 {
        return false;
    }
    decode_escape(after).is_some_and(|(second, _)| match first {
        // Some decoders do not check the second byte.
        0xc0 | 0xc1 => second < 0xc0,
        0xe0 => (0x80..0xa0).contains(&second),
        0xf0 => (0x80..0x90).contains(&second),
        0xf8 => (0x80..0x88).contains(&second),
        0xfc => (0x80..0x84).contains(&second),
        _ => false,
    })
}

fn starts_with_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// Decodes escapes of unreserved characters in a valid path or host.
pub(super) fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        decoded.push_str(before);
        match decode_escape(from.as_bytes()) {
            Some((byte, _)) if is_unreserved(byte) => decoded.push(char::from(byte)),
            _ => decoded.push_str(from.get(..3).unwrap_or(from)),
        }
        rest = from.get(3..).unwrap_or_default();
    }
    decoded.push_str(rest);
    decoded
}

/// Implements RFC 3986, section 5.2.4, for a path that starts with `/`, but rejects paths above the root.
fn remove_dot_segments(path: &str) -> Result<String, Rejection> {
    let mut result = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => result.truncate(result.rfind('/').ok_or(Rejection::AboveRoot)?),
            _ => {
                result.push('/');
                result.push_str(segment);
                continue;
            }
        }
        // Dots at the end name a directory.
        if segments.peek().is_none() {
            result.push('/');
        }
    }
    Ok(result)
}

/// An unreserved character (RFC 3986, section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Visible ASCII except `#`. RFC 3986 allows less, but browsers send `|`, `"` and `{` unescaped.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised() {
        let cases = [
            // Case: path-normal-form
            ("/a/../admin", "/admin"),
            ("/a/%2e%2e/admin", "/admin"),
            ("/a/%2E./admin", "/admin"),
            ("/a/.%2e/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%7Euser%2D%5f%2e", "/~user-_."),
            // RFC 3986, section 5.2.4.
            ("/a/b/c/./../../g", "/a/g"),
            ("/.", "/"),
            ("/./", "/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/./a", "/a"),
            // An empty segment is a segment.
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/.//admin", "//admin"),
        ];
        for (path, normal) in cases {
            assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn a_normalised_path_is_not_copied() {
        let cases = [
            "/",
            "/a/b/",
            // Case: path-normal-form
            // An escape of a reserved character or an empty segment makes a different path.
            "/..%2fadmin",
            "/..%2Fadmin",
            "//admin",
            "/a//b",
            "/%252e%252e/admin",
            "/..%5cadmin",
            "/..;/admin",
            "/...",
            "/.git",
            "/..a/.b./c..",
            "/.well-known/x",
            "/%E2%82%AC/%c3%bc",
            "/%f0%9f%a6%80",
            // Case: path-bytes
            "/caf%E9",
            "/%e2%82",
            "/%e2%82x",
            "/%80",
            "/%ff",
            "/%ed%a0%80",
            "/%f4%90%80%80",
            "/%C0",
            "/%C0propos",
            "/%C0%C9",
            "/%e0%a0%80",
            "/%f0%90%80%80",
            "/a:@!$&'()*+,;=|\"{}\\^",
            "/%0d%0a%20%7f",
        ];
        for path in cases {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn unsafe_paths_are_rejected() {
        use Rejection::{AboveRoot, BadEscape, Overlong, TargetBytes, TargetForm};
        let cases = [
            // Case: path-normal-form
            ("/%00", BadEscape),
            ("/a%00.png", BadEscape),
            ("/%c0%af", Overlong),
            ("/..", AboveRoot),
            ("/../admin", AboveRoot),
            ("/a/../../admin", AboveRoot),
            ("/%2e%2e/admin", AboveRoot),
            ("/./..", AboveRoot),
            ("/%C1%9c", Overlong),
            ("/%c0%80", Overlong),
            ("/%c0%2f", Overlong),
            ("/%c0%ae%c0%ae/admin", Overlong),
            ("/%e0%80%af", Overlong),
            ("/%E0%9F%BF", Overlong),
            ("/%f0%80%80%af", Overlong),
            ("/%f8%80%80%80%af", Overlong),
            ("/%fc%80%80%80%80%af", Overlong),
            ("/%c3%c0%af", Overlong),
            ("/%", BadEscape),
            ("/%4", BadEscape),
            ("/%zz", BadEscape),
            ("/%+1", BadEscape),
            ("/a%%61", BadEscape),
            // Case: bad-target
            ("/a#b", TargetBytes),
            ("/\u{e9}", TargetBytes),
            ("/a b", TargetBytes),
            ("/a\tb", TargetBytes),
            ("/a\u{7f}", TargetBytes),
            ("/a?b", TargetBytes),
            ("", TargetForm),
            ("*", TargetForm),
            ("a/b", TargetForm),
        ];
        for (path, rejection) in cases {
            assert_eq!(normalise(path), Err(rejection), "{path}");
        }
    }

    #[test]
    fn queries_are_only_checked_for_visible_ascii() {
        for query in ["", "a=b&c=%00&d=%c0%af&e=../..", "a=[1]|\"{}?/"] {
            assert_eq!(check_query(query), Ok(()), "{query}");
        }
        for query in ["a=\u{e9}", "a b", "a#b", "\u{7f}"] {
            assert_eq!(check_query(query), Err(Rejection::TargetBytes), "{query}");
        }
    }

    #[test]
    fn random_paths_are_rejected_or_normalised_for_good() {
        const PIECES: [&str; 22] = [
            "/", "/", "/", ".", "..", "a", "%2e", "%2E", "%2f", "%61", "%25", "%00", "%c3%bc", "%c0", "%", "2e", "%5",
            ";", "\\", "#", "\u{e9}", "~",
        ];
        let mut rng = fastrand::Rng::with_seed(21);
        let (mut accepted, mut changed) = (0, 0);
        for _ in 0..10_000 {
            let mut path = "/".to_owned();
            path.extend((0..rng.usize(..9)).filter_map(|_| rng.choice(PIECES)));
            let Ok(once) = normalise(&path) else { continue };
            accepted += 1;
            changed += usize::from(*once != path);
            assert!(once.starts_with('/'), "{path} became {once}");
            assert!(once.split('/').all(|segment| segment != "." && segment != ".."), "{path} became {once}");
            assert!(matches!(normalise(&once), Ok(Cow::Borrowed(_))), "{path} became {once}, which is not stable");
        }
        assert!(accepted > 1000 && changed > 500, "{accepted} were accepted, {changed} were changed");
    }
}
