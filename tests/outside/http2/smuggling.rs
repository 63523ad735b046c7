//! The ways in which http2smugl hides `content-length` and `transfer-encoding` from one parser and shows it to the next, all of
//! them: no server gets a second request, or one that it could read in another way.

use crate::support::h2::{DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, RawH2, block, frame};
use crate::support::servers::Server;

use super::lb;

const LINE_ENDS: [&str; 3] = ["\r\n", "\r", "\n"];

/// The headers in which `name: value` is hidden, each with a name for its kind, and pseudo-headers that it replaces.
fn hidden(name: &str, value: &str) -> Vec<(&'static str, String, String)> {
    let mut forms = vec![
        ("nothing hidden", name.to_owned(), value.to_owned()),
        ("underscores", name.replace('-', "_"), value.to_owned()),
        ("a long s", name.replacen('s', "\u{17f}", 1), value.to_owned()),
        ("a kelvin sign", name.to_owned(), value.replacen('k', "\u{212a}", 1)),
    ];
    let spaces = ["\0", " ", "\t", "\u{b}", "\u{85}", "\u{a0}", "\u{130ba}"];
    forms.extend(spaces.map(|space| ("a space", format!("{name}{space}"), value.to_owned())));
    for end in LINE_ENDS {
        forms.push(("a line in a value", "header".to_owned(), format!("val{end}{name}: {value}")));
        for header in ["header", " header", "x-forwarded-for"] {
            let (sign, digits) = value.strip_prefix('-').map_or(("", value), |digits| ("-", digits));
            let padded = format!("val{end}{name}: {sign}0000000000{digits}");
            forms.push(("a longer line in a value", header.to_owned(), padded));
        }
        for start in ["x", "x: x"] {
            forms.push(("a line in a name", format!("{start}{end}{name}"), value.to_owned()));
        }
        let path = format!("/ HTTP/1.1{end}{name}: {value}{end}fake-header: ");
        forms.push(("a line in the path", ":path".to_owned(), path));
        let method = format!("METHOD /robots.txt HTTP/1.1{end}{name}: {value}{end}fake-header: x");
        forms.push(("a line in the method", ":method".to_owned(), method));
    }
    // Not every form changes every header.
    forms.retain(|(form, hidden_name, hidden_value)| {
        *form == "nothing hidden" || (&**hidden_name, &**hidden_value) != (name, value)
    });
    forms
}

// Case: h2-malformed
#[test]
fn nothing_on_the_list_of_http2smugl_reaches_a_server_as_something_else() {
    let server = Server::named("one");
    let lb = lb(&server, "");
    // A valid and an invalid value without a body; and a body that is valid, invalid or unfinished if it is chunked.
    let lengths = [("content-length", "1", None), ("content-length", "-1", None)];
    let bodies = ["0\r\n\r\n", "X\r\n\r\n", "999\r\n\r\n"];
    let codings = bodies.map(|body| ("transfer-encoding", "chunked", Some(body)));
    let (mut requests, mut accepted) = (0, 0);
    for (name, value, body) in lengths.into_iter().chain(codings) {
        for (form, hidden_name, hidden_value) in hidden(name, value) {
            let mut headers = vec![(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
            headers.retain(|(name, _)| *name != hidden_name);
            if let Some(body) = body {
                headers.push(("content-length", if body.len() == 5 { "5" } else { "7" }));
            }
            // Pseudo-headers come first.
            headers.insert(if hidden_name.starts_with(':') { 0 } else { headers.len() }, (&hidden_name, &hidden_value));
            let mut client = RawH2::connect(lb.address());
            let end = if body.is_none() { END_STREAM } else { 0 };
            client.send(&frame(HEADERS, END_HEADERS | end, 1, &block(&headers)));
            if let Some(body) = body {
                client.send(&frame(DATA, END_STREAM, 1, body.as_bytes()));
            }
            requests += 1;
            let before = server.requests().len();
            match client.outcome(1) {
                Outcome::Status(200) => {
                    assert_eq!(form, "underscores", "{headers:?}");
                    accepted += 1;
                    let seen = server.requests().pop().expect("a request");
                    assert!(seen.is_canonical() && seen.line == "POST / HTTP/1.1", "{seen:?}");
                    assert_eq!(seen.body, body.unwrap_or_default().as_bytes(), "{seen:?}");
                    assert!(!seen.headers.iter().any(|(name, _)| name.contains('_')), "{seen:?}");
                }
                Outcome::Reset(_) | Outcome::GoAway(_) | Outcome::Status(400) => {
                    assert_eq!(server.requests().len(), before, "{form}: {headers:?}");
                }
                other => panic!("{form}: {headers:?}: {other:?}"),
            }
        }
    }
    assert_eq!((requests, accepted, server.requests().len()), (5 * 35 - 4, 5, 5));
    assert!(!lb.has_panicked());
}
