//! One text for each path (RFC 3986, section 6.2.2), so that a route sees what its server will see. Pure.

use std::borrow::Cow;

use crate::http1::rejection::Rejection;

/// The path with its unreserved characters decoded and its dot segments removed; borrowed where it
/// is that already.
///
/// Everything else keeps its bytes: an escaped `/` is no `/`, an empty segment is a segment, and
/// escapes keep the case of their digits, because a server may have signed the path as it was.
///
/// # Errors
/// [`Rejection::TargetForm`] unless it begins with `/`, [`Rejection::TargetBytes`], [`Rejection::BadEscape`],
/// [`Rejection::BadText`], and [`Rejection::AboveRoot`], where RFC 3986 would stop at the root: who asks
/// for that looks for a server that does not.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, Rejection> {
    if !path.starts_with('/') {
        return Err(Rejection::TargetForm);
    }
    let found = inspect(path.as_bytes())?;
    let decoded = if found.unreserved { Cow::Owned(decode_unreserved(path)) } else { Cow::Borrowed(path) };
    if found.dots || found.unreserved { remove_dot_segments(&decoded).map(Cow::Owned) } else { Ok(decoded) }
}

/// Whether a query may be forwarded, which is then done byte by byte.
///
/// # Errors
/// [`Rejection::TargetBytes`].
pub fn check_query(query: &str) -> Result<(), Rejection> {
    if query.bytes().all(is_target_byte) { Ok(()) } else { Err(Rejection::TargetBytes) }
}

/// What a path has that must be changed.
#[derive(Default)]
struct Found {
    /// Escapes of unreserved characters.
    unreserved: bool,
    /// Dot segments, not counting those that are escaped.
    dots: bool,
}

fn inspect(mut rest: &[u8]) -> Result<Found, Rejection> {
    let mut found = Found::default();
    loop {
        rest = match rest {
            [] => return Ok(found),
            [b'%', ..] => {
                let (first, after) = escape(rest).ok_or(Rejection::BadEscape)?;
                found.unreserved |= is_unreserved(first);
                rest_of_character(first, after)?
            }
            [b'/', after @ ..] => {
                found.dots |= begins_with_dot_segment(after);
                after
            }
            [byte, after @ ..] if is_target_byte(*byte) && *byte != b'?' => after,
            _ => return Err(Rejection::TargetBytes),
        };
    }
}

/// The byte that the escape at the beginning stands for, and what follows the escape.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, after @ ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(*high)? << 4 | digit(*low)?, after))
}

/// What follows the whole character, whose first byte was escaped and so must be its others.
fn rest_of_character(first: u8, mut after: &[u8]) -> Result<&[u8], Rejection> {
    let length = match first {
        0 => return Err(Rejection::BadEscape),
        0x01..=0x7f => return Ok(after),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(Rejection::BadText),
    };
    let mut character = [first, 0, 0, 0];
    for byte in &mut character[1..length] {
        (*byte, after) = escape(after).ok_or(Rejection::BadText)?;
    }
    // Refuses what is longer than it has to be, and surrogates.
    std::str::from_utf8(&character[..length]).map(|_| after).map_err(|_| Rejection::BadText)
}

fn begins_with_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// Of a path that [`inspect`] has passed.
fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        decoded.push_str(before);
        match escape(from.as_bytes()) {
            Some((byte, _)) if is_unreserved(byte) => decoded.push(char::from(byte)),
            _ => decoded.push_str(from.get(..3).unwrap_or(from)),
        }
        rest = from.get(3..).unwrap_or_default();
    }
    decoded.push_str(rest);
    decoded
}

/// RFC 3986, section 5.2.4, for a path that begins with `/`, but never above the root.
fn remove_dot_segments(path: &str) -> Result<String, Rejection> {
    let mut kept = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => kept.truncate(kept.rfind('/').ok_or(Rejection::AboveRoot)?),
            _ => {
                kept.push('/');
                kept.push_str(segment);
                continue;
            }
        }
        // What the dots named is a directory.
        if segments.peek().is_none() {
            kept.push('/');
        }
    }
    Ok(kept)
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Visible ASCII but `#`. RFC 3986 has fewer; browsers send the rest (`|`, `"`, `{`) unescaped.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_by_one_text() {
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
            // An empty segment is one.
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/.//admin", "//admin"),
        ];
        for (path, normal) in cases {
            assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn what_is_normal_is_not_copied() {
        let cases = [
            "/",
            "/a/b/",
            // An escape of a reserved character or an empty segment stays.
            // Case: path-normal-form
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
            "/a:@!$&'()*+,;=|\"{}\\^",
            "/%0d%0a%20%7f",
        ];
        for path in cases {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn what_no_server_should_see_is_refused() {
        use Rejection::{AboveRoot, BadEscape, BadText, TargetBytes, TargetForm};
        let cases = [
            // Case: path-normal-form
            ("/%00", BadEscape),
            ("/a%00.png", BadEscape),
            ("/%c0%af", BadText),
            ("/..", AboveRoot),
            ("/../admin", AboveRoot),
            ("/a/../../admin", AboveRoot),
            ("/%2e%2e/admin", AboveRoot),
            ("/./..", AboveRoot),
            // UTF-8 cut short, longer than it has to be, of surrogates, beyond the last character.
            ("/%e2%82", BadText),
            ("/%e2%82x", BadText),
            ("/%e9", BadText),
            ("/%80", BadText),
            ("/%ff", BadText),
            ("/%e0%80%af", BadText),
            ("/%ed%a0%80", BadText),
            ("/%f4%90%80%80", BadText),
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
        for (path, refusal) in cases {
            assert_eq!(normalise(path), Err(refusal), "{path}");
        }
    }

    #[test]
    fn queries_are_visible_ascii_and_the_rest_is_the_servers_matter() {
        for query in ["", "a=b&c=%00&d=%c0%af&e=../..", "a=[1]|\"{}?/"] {
            assert_eq!(check_query(query), Ok(()), "{query}");
        }
        for query in ["a=\u{e9}", "a b", "a#b", "\u{7f}"] {
            assert_eq!(check_query(query), Err(Rejection::TargetBytes), "{query}");
        }
    }

    #[test]
    fn random_paths_are_refused_or_normal_for_good() {
        const PIECES: [&str; 22] = [
            "/", "/", "/", ".", "..", "a", "%2e", "%2E", "%2f", "%61", "%25", "%00", "%c3%bc", "%c0", "%", "2e", "%5",
            ";", "\\", "#", "\u{e9}", "~",
        ];
        let mut rng = fastrand::Rng::with_seed(21);
        let (mut normal, mut changed) = (0, 0);
        for _ in 0..10_000 {
            let mut path = "/".to_owned();
            path.extend((0..rng.usize(..9)).filter_map(|_| rng.choice(PIECES)));
            let Ok(once) = normalise(&path) else { continue };
            normal += 1;
            changed += usize::from(*once != path);
            assert!(once.starts_with('/'), "{path} became {once}");
            assert!(once.split('/').all(|segment| segment != "." && segment != ".."), "{path} became {once}");
            assert!(matches!(normalise(&once), Ok(Cow::Borrowed(_))), "{path} became {once}, and that something else");
        }
        assert!(normal > 1000 && changed > 500, "{normal} were paths, {changed} were changed");
    }
}
