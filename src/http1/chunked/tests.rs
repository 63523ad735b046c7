//! Tables of accepted and rejected bodies, from clients and from servers, and random mutations.

use super::*;
use crate::http1::framing::Sender::{Client, Server};

/// The data, the trailers, and the bytes after the body, which are `None` if the body has not ended.
type DecodedBody = Result<(Vec<u8>, Vec<u8>, Option<Vec<u8>>), BadChunk>;

/// Decodes a body that arrives in these pieces.
fn decode<'a>(sender: Sender, pieces: impl IntoIterator<Item = &'a [u8]>) -> DecodedBody {
    let (mut decoder, mut content, mut after) = (Decoder::new(sender), Vec::new(), None);
    for piece in pieces {
        let before = content.len();
        let Decoded { consumed, done } = decoder.decode(piece, &mut content)?;
        assert!(content.len() - before <= consumed && (done || consumed == piece.len()));
        if done {
            after.get_or_insert_with(Vec::new).extend_from_slice(&piece[consumed..]);
        }
        assert_eq!(done, decoder.is_done());
    }
    Ok((content, decoder.trailers().to_vec(), after))
}

/// Decodes `input` at once, byte by byte, and split in two at every position: the results must be equal.
#[track_caller]
fn decode_in_every_split(sender: Sender, input: &[u8]) -> DecodedBody {
    let at_once = decode(sender, [input]);
    assert_eq!(decode(sender, input.chunks(1)), at_once, "byte by byte: {}", input.escape_ascii());
    for at in 0..=input.len() {
        let (left, right) = input.split_at(at);
        assert_eq!(decode(sender, [left, right]), at_once, "split at {at}: {}", input.escape_ascii());
    }
    at_once
}

/// `¶` is CR LF.
fn bytes(text: &str) -> Vec<u8> {
    text.replace('¶', "\r\n").into_bytes()
}

#[test]
fn a_body_consists_of_its_chunks_and_ends_with_the_last_one() {
    /// Input; data, trailers, bytes after the body.
    type BodyCase<'a> = (&'a str, &'a str, &'a str, &'a str);
    let cases: [BodyCase<'_>; 15] = [
        ("0¶¶", "", "", ""),
        ("000¶¶", "", "", ""),
        ("5¶hello¶0¶¶", "hello", "", ""),
        ("5¶hello¶1¶ ¶05¶world¶0¶¶", "hello world", "", ""),
        ("a¶0123456789¶A¶0123456789¶0¶¶", "01234567890123456789", "", ""),
        ("0000000000000002¶ab¶0¶¶", "ab", "", ""),
        ("2¶¶¶0¶¶", "\r\n", "", ""),
        ("5¶0¶¶¶0¶¶", "0¶¶", "", ""),
        // Bytes after the body belong to the next message.
        ("0¶¶GET / HTTP/1.1¶", "", "", "GET / HTTP/1.1¶"),
        ("1¶a¶0¶¶¶", "a", "", "¶"),
        // Extensions.
        // Case: chunk-extensions
        ("1;a¶a¶0;b=\"c;\\\"\";d¶¶", "a", "", ""),
        ("1 ;\ta = b\t; c = \"\u{e9}\t\" ; d¶a¶0\t ; a¶¶", "a", "", ""),
        // Case: trailers
        ("0¶X: 1¶¶", "", "X: 1¶", ""),
        ("0¶Content-Length: 7¶Host: evil¶!#$:\t\u{e9}¶¶G", "", "Content-Length: 7¶Host: evil¶!#$:\t\u{e9}¶", "G"),
        ("0¶A:¶B::¶¶", "", "A:¶B::¶", ""),
    ];
    for (input, content, trailers, after) in cases {
        let expected = Ok((bytes(content), bytes(trailers), Some(bytes(after))));
        for sender in [Client, Server] {
            assert_eq!(decode_in_every_split(sender, &bytes(input)), expected, "{input}");
        }
    }
}

#[test]
fn ambiguous_bodies_are_rejected() {
    use BadChunk::{Extension, LineEnd, Size, Trailer};
    let cases = [
        // Case: bad-chunk
        ("0x5¶hello¶0¶¶", Size),
        ("+5¶hello¶0¶¶", Size),
        ("-1¶hello¶0¶¶", Size),
        (" 5¶hello¶0¶¶", Size),
        ("5_0¶hello¶0¶¶", Size),
        ("¶hello¶0¶¶", Size),
        (";a¶hello¶0¶¶", Size),
        ("FFFFFFFFFFFFFFFF0¶hello¶0¶¶", Size),
        ("00000000000000005¶hello¶0¶¶", Size),
        ("5¶hello!!¶0¶¶", LineEnd),
        ("5¶hello0¶¶", LineEnd),
        ("5\nhello¶0¶¶", Size),
        ("5\r\rhello¶0¶¶", LineEnd),
        ("5\rhello¶0¶¶", LineEnd),
        ("5¶hello\n0¶¶", LineEnd),
        ("5¶hello\r\r0¶¶", LineEnd),
        ("5¶hello¶0\n¶", Size),
        ("5¶hello¶0¶\n", Trailer),
        ("5¶hello¶0¶\r\r", LineEnd),
        ("5¶hello¶¶0¶¶", Size),
        ("5;a\nhello¶0¶¶", Extension),
        ("5;a\rb¶hello¶0¶¶", LineEnd),
        // Case: chunk-extensions
        ("5;a=\"¶\"¶hello¶0¶¶", Extension),
        ("5;¶hello¶0¶¶", Extension),
        ("5; ¶hello¶0¶¶", Extension),
        ("5;;a¶hello¶0¶¶", Extension),
        ("5;a=¶hello¶0¶¶", Extension),
        ("5;=b¶hello¶0¶¶", Extension),
        ("5;a=b=c¶hello¶0¶¶", Extension),
        ("5;a ¶hello¶0¶¶", Extension),
        ("5;a=b ¶hello¶0¶¶", Extension),
        ("5;a b¶hello¶0¶¶", Extension),
        ("5;a=\"b\" c¶hello¶0¶¶", Extension),
        ("5;a=\"b\"c¶hello¶0¶¶", Extension),
        ("5;a=b\"c\"¶hello¶0¶¶", Extension),
        ("5;a=\"b\\\"¶hello¶0¶¶", Extension),
        ("5;a=\"\u{1}\"¶hello¶0¶¶", Extension),
        ("5;a(b)¶hello¶0¶¶", Extension),
        ("5;\u{e9}¶hello¶0¶¶", Extension),
        ("5;a=\u{e9}¶hello¶0¶¶", Extension),
        ("5;\0¶hello¶0¶¶", Extension),
        ("5;\u{7f}¶hello¶0¶¶", Extension),
        // White space is allowed only before an extension.
        ("5 ¶hello¶0¶¶", Extension),
        ("5 0¶hello¶0¶¶", Extension),
        ("5 a¶hello¶0¶¶", Extension),
        ("g¶hello¶0¶¶", Size),
        ("5g¶hello¶0¶¶", Size),
        ("\u{665}¶hello¶0¶¶", Size),
        ("0¶ X: 1¶¶", Trailer),
        ("0¶X: 1¶ 2¶¶", Trailer),
        ("0¶X : 1¶¶", Trailer),
        ("0¶: 1¶¶", Trailer),
        ("0¶X¶¶", Trailer),
        ("0¶\u{e9}: 1¶¶", Trailer),
        ("0¶X: \0¶¶", Trailer),
        ("0¶X: 1\n¶", Trailer),
        ("0¶X: 1\rY: 2¶¶", LineEnd),
        ("0¶GET / HTTP/1.1¶Host: a¶¶", Trailer),
    ];
    for (input, bad) in cases {
        assert_eq!(decode_in_every_split(Client, &bytes(input)), Err(bad), "{input}");
    }
}

#[test]
fn a_server_may_deviate_where_that_leaves_no_doubt() {
    /// Input; data, trailers, bytes after the body.
    type BodyCase<'a> = (&'a str, &'a str, &'a str, &'a str);
    let cases: [BodyCase<'_>; 23] = [
        // Case: padded-chunks
        ("3   ¶hi!¶0   ¶¶", "hi!", "", ""),
        ("3\t \t¶hi!¶0\t¶¶G", "hi!", "", "G"),
        ("3 ;a¶hi!¶0 ; a ¶¶", "hi!", "", ""),
        ("000000000000000003¶hi!¶000000000000000000¶¶", "hi!", "", ""),
        ("00000000000000000000000000000003 ¶hi!¶0¶¶", "hi!", "", ""),
        // Case: tolerated-response
        ("3\nhi!\n0\n\n", "hi!", "", ""),
        ("3\nhi!¶0¶\nG", "hi!", "", "G"),
        ("3\nhi!\n3¶hi!¶0\n¶", "hi!hi!", "", ""),
        ("3 \nhi!\n0 \n\n", "hi!", "", ""),
        ("3¶hi!\n3¶hi\n\n0¶¶", "hi!hi\n", "", ""),
        ("3\nhi\r\n0\n\n", "hi\r", "", ""),
        ("3;a\nhi!\n0;a=\"\n\n", "hi!", "", ""),
        ("3\n\n\n\n\n0\n\n", "\n\n\n", "", ""),
        ("3;¶hi!¶0;;=(\u{e9}\u{1}¶¶", "hi!", "", ""),
        ("3;a b=\"¶hi!¶0; ¶¶", "hi!", "", ""),
        // Trailers.
        ("0\nX: 1\nY: 2¶\n", "", "X: 1¶Y: 2¶", ""),
        ("0¶X : 1¶Y\t : 2¶¶", "", "X: 1¶Y: 2¶", ""),
        ("0¶X: 1¶ 2¶\t3¶Y: 4¶¶", "", "X: 1 2 3¶Y: 4¶", ""),
        ("0¶X: 1\n 2\nY:\n\n", "", "X: 1 2¶Y:¶", ""),
        ("0¶X:¶ ¶¶", "", "X: ¶", ""),
        ("0¶X: a\u{1}b\u{7f}¶¶", "", "X: a b ¶", ""),
        ("0¶X:\u{7}¶¶", "", "X: ¶", ""),
        ("0¶X: 1¶\nG", "", "X: 1¶", "G"),
    ];
    for (input, content, trailers, after) in cases {
        let expected = (bytes(content), bytes(trailers), Some(bytes(after)));
        assert_eq!(decode_in_every_split(Server, &bytes(input)), Ok(expected), "{input}");
        assert!(decode(Client, [&bytes(input)[..]]).is_err(), "{input}");
    }
}

#[test]
fn a_server_may_not_deviate_where_the_length_is_in_doubt() {
    use BadChunk::{Extension, LineEnd, Size, Trailer};
    let cases = [
        // Case: bad-body
        ("0x3¶hi!¶0¶¶", Size),
        ("+3¶hi!¶0¶¶", Size),
        (" 3¶hi!¶0¶¶", Size),
        ("¶hi!¶0¶¶", Size),
        ("\nhi!¶0¶¶", Size),
        ("FFFFFFFFFFFFFFFF0¶hi!¶0¶¶", Size),
        ("00FFFFFFFFFFFFFFFF0¶hi!¶0¶¶", Size),
        ("3 0¶hi!¶0¶¶", Extension),
        ("3 a¶hi!¶0¶¶", Extension),
        ("3\rhi!¶0¶¶", LineEnd),
        ("3\r¶hi!¶0¶¶", LineEnd),
        ("3;a\rb¶hi!¶0¶¶", LineEnd),
        ("3;\0¶hi!¶0¶¶", Extension),
        ("3¶hi!!¶0¶¶", LineEnd),
        ("3¶hi¶0¶¶", LineEnd),
        ("1\na\n3¶hi¶0¶¶", LineEnd),
        ("3¶hi!0¶¶", LineEnd),
        ("3¶hi!\r\r0¶¶", LineEnd),
        ("3¶hi!¶¶0¶¶", Size),
        ("0¶ X: 1¶¶", Trailer),
        ("0¶X¶¶", Trailer),
        ("0¶X\n\n", Trailer),
        ("0¶X y: 1¶¶", Trailer),
        ("0¶: 1¶¶", Trailer),
        ("0¶X: \0¶¶", Trailer),
        ("0¶X: 1\rY: 2¶¶", LineEnd),
    ];
    for (input, bad) in cases {
        assert_eq!(decode_in_every_split(Server, &bytes(input)), Err(bad), "{input}");
    }
    let zeros = |count: usize| bytes(&format!("{}¶¶", "0".repeat(count)));
    assert!(decode(Server, [&zeros(MAX_PADDED_DIGITS)[..]]).is_ok());
    assert_eq!(decode(Server, [&zeros(MAX_PADDED_DIGITS + 1)[..]]), Err(Size));
}

#[test]
fn the_extensions_of_a_clients_body_have_a_limit_by_its_data() {
    // Case: chunk-extensions
    let body = |chunks: usize, size: usize, extension: usize| {
        let extension = "x".repeat(extension - 1);
        let chunk = format!("{size:x};{extension}¶{}¶", "d".repeat(size));
        bytes(&format!("{}0¶¶", chunk.repeat(chunks)))
    };
    for (chunks, size, extension, is_ok) in
        [(1000, 100, 100, true), (16, 1, 1 << 10, true), (17, 1, 1 << 10, false), (1000, 1, 100, false)]
    {
        let body = body(chunks, size, extension);
        assert_eq!(decode(Client, [&body[..]]).err(), (!is_ok).then_some(BadChunk::Extension));
        assert_eq!(decode(Server, [&body[..]]).err(), None);
    }
}

#[test]
fn extensions_and_trailers_have_limits() {
    let extension = |length: usize| format!("1;{}¶a¶0¶¶", "x".repeat(length - 1));
    let spaces = |length: usize| format!("1{};a¶a¶0¶¶", " ".repeat(length));
    let trailer = |length: usize| format!("0¶X:{}¶¶", "x".repeat(length - "X:\r\n".len()));
    let trailers = |count: usize| format!("0¶{}¶", "X: 1¶".repeat(count));
    let cases = [
        (extension(MAX_EXTENSION), None),
        (extension(MAX_EXTENSION + 1), Some(BadChunk::Extension)),
        (extension(64 << 10), Some(BadChunk::Extension)),
        (spaces(MAX_EXTENSION), None),
        (spaces(MAX_EXTENSION + 1), Some(BadChunk::Extension)),
        (trailer(MAX_TRAILER_BYTES), None),
        (trailer(MAX_TRAILER_BYTES + 1), Some(BadChunk::TooManyTrailers)),
        (trailers(MAX_TRAILERS), None),
        (trailers(MAX_TRAILERS + 1), Some(BadChunk::TooManyTrailers)),
    ];
    for (input, expected) in cases {
        let input = bytes(&input);
        for sender in [Client, Server] {
            let expected = expected.filter(|bad| sender == Client || *bad == BadChunk::Extension);
            assert_eq!(decode(sender, [&input[..]]).err(), expected, "{}", input.len());
            assert_eq!(decode(sender, input.chunks(1)).err(), expected, "{}", input.len());
        }
    }
}

#[test]
fn a_servers_trailers_beyond_the_limits_are_dropped() {
    let long = |length: usize| format!("X:{}¶", "x".repeat(length - "X:\r\n".len()));
    let many = |count: usize| "X: 1¶".repeat(count);
    // The trailers that are kept, and those that follow.
    let cases = [
        (many(MAX_TRAILERS), many(1)),
        (many(MAX_TRAILERS), "X: 2¶ 3\n".repeat(9000)),
        (long(MAX_TRAILER_BYTES), many(1)),
        (long(8000), long(192 + 1) + &many(1)),
        (String::new(), long(MAX_TRAILER_BYTES + 1)),
        (many(3), format!("X: 1¶ {}¶ 2¶Y: 1¶", "x".repeat(9000))),
    ];
    for (kept, dropped) in cases {
        let input = bytes(&format!("2¶ok¶0¶{kept}{dropped}¶G"));
        let expected = (b"ok".to_vec(), bytes(&kept), Some(b"G".to_vec()));
        assert_eq!(decode(Server, [&input[..]]), Ok(expected.clone()), "{}", input.len());
        assert_eq!(decode(Server, input.chunks(1)), Ok(expected), "{}", input.len());
        assert!(decode(Client, [&input[..]]).is_err(), "{}", input.len());
    }
    assert_eq!(decode(Server, [&bytes(&format!("0¶{}bad¶¶", many(65)))[..]]), Err(BadChunk::Trailer));
}

#[test]
fn a_truncated_body_is_not_done() {
    let input = bytes("5;a=b¶hello¶0¶X: 1¶¶");
    for end in 0..input.len() {
        let (_, _, after) = decode(Client, [&input[..end]]).expect("valid so far");
        assert_eq!(after, None, "{end}");
    }
    let (content, ..) = decode(Client, [&b"ffffffffffffffff\r\nabc"[..]]).expect("valid so far");
    assert_eq!(content, b"abc", "the part of a large chunk that has arrived is available at once");
}

#[test]
fn mutated_bodies_never_panic_and_decode_the_same_in_pieces() {
    let seeds = ["5¶hello¶0¶¶G", "5;a=\"b\"¶hello¶A ;c¶0123456789¶0¶X: 1¶Y: 2¶¶G", "ffffffffffffffff¶a"].map(bytes);
    let mut rng = fastrand::Rng::with_seed(9);
    let (mut complete, mut rejected) = (0, 0);
    for _ in 0..100_000 {
        let mut input = rng.choice(&seeds).cloned().unwrap_or_default();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..input.len());
            match rng.u8(..4) {
                0 => input[at] = rng.u8(..),
                1 => input.insert(at, *rng.choice(b"\r\n0;: F\t\0").unwrap_or(&0)),
                2 => drop(input.remove(at)),
                _ => input.extend_from_within(at..),
            }
        }
        let at_once = decode(Client, [&input[..]]);
        assert_eq!(decode(Client, input.chunks(rng.usize(1..8))), at_once, "{}", input.escape_ascii());
        let from_server = decode(Server, [&input[..]]);
        assert_eq!(decode(Server, input.chunks(rng.usize(1..8))), from_server, "{}", input.escape_ascii());
        assert!(at_once.is_err() || at_once == from_server, "valid bodies mean the same: {}", input.escape_ascii());
        complete += usize::from(matches!(at_once, Ok((_, _, Some(_)))));
        rejected += usize::from(at_once.is_err());
    }
    assert!(complete > 1000 && rejected > 1000, "{complete} were complete, {rejected} were rejected");
}
