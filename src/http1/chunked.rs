//! The chunked coding (RFC 9112, section 7.1): bodies in pieces, each behind its size. Pure.
//!
//! Read by the letter: what the grammar does not have is refused, because another reader may
//! understand it otherwise. Lines end with CR LF, a size is 1 to 16 hexadecimal digits.

use std::fmt;

/// The longest extension of a chunk, in bytes; it is read over.
const MAX_EXTENSION: usize = 4 << 10;
/// The longest trailer section, in bytes.
const MAX_TRAILERS: usize = 8 << 10;
/// The most headers in a trailer section.
const MAX_TRAILERS_COUNT: usize = 64;
/// As many digits fit 64 bits.
const MAX_DIGITS: usize = 16;

/// Reads a body that comes in any pieces.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    state: ChunkState,
    /// The field lines behind the last chunk, each with its CR LF.
    trailers: Vec<u8>,
    trailer_count: usize,
}

/// What a piece of input held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// How many of its bytes belong to the body: all, unless it is done.
    pub consumed: usize,
    /// The body is whole.
    pub done: bool,
}

/// Something that is not the chunked coding of RFC 9112: where the body ends is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadChunk {
    /// A size that is not 1 to 16 hexadecimal digits, with nothing but an extension behind them (section 7.1).
    Size,
    /// An extension of more than 4 KiB, or with a control character (section 7.1.1).
    Extension,
    /// A line, or a chunk's content, that does not end with CR LF (sections 2.2 and 7.1).
    LineEnd,
    /// A trailer that is no field (sections 5 and 7.1.2).
    Trailer,
    /// Trailers of more than 8 KiB, or more than 64 (RFC 6585, section 5).
    TooManyTrailers,
}

/// What the next byte is, where it is not plain from the bytes before.
#[derive(Debug, Clone, Copy)]
enum ChunkState {
    /// A digit of the size, or what follows it.
    Size { digits: usize, size: u64 },
    /// White space that an extension has to follow.
    Space { length: usize, size: u64 },
    /// In an extension.
    Extension { length: usize, size: u64 },
    /// The LF of the size's line.
    SizeEnd { size: u64 },
    /// In a chunk's content.
    Content { left: u64 },
    /// The CR behind it.
    ContentCr,
    /// The LF behind it.
    ContentLf,
    /// The first of a trailer, or the CR of the empty line.
    Trailer,
    /// In a trailer's name.
    TrailerName,
    /// In a trailer's value.
    TrailerValue,
    /// The LF of a trailer.
    TrailerEnd,
    /// The LF of the empty line.
    End,
    /// None: the body is whole.
    Done,
}

impl Decoder {
    /// For a body that begins with the next byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on, up to the end of the body at most, and adds its content to `out`: never more than
    /// `input` is long.
    ///
    /// # Errors
    /// [`BadChunk`]; then the body cannot be read any further.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Decoded, BadChunk> {
        let mut rest = input;
        while let [byte, after @ ..] = rest {
            rest = match self.state {
                ChunkState::Done => break,
                ChunkState::Content { left } => self.take_content(left, rest, out),
                state => {
                    self.state = self.next(state, *byte)?;
                    after
                }
            };
        }
        Ok(Decoded { consumed: input.len() - rest.len(), done: self.is_done() })
    }

    /// Whether the body is whole.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, ChunkState::Done)
    }

    /// The headers behind the last chunk as they came, each a line with its CR LF. They are not the
    /// head's: RFC 9110, section 6.5.1, says which of them mean nothing here.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Takes what is there of a chunk's content, of which `left` bytes are not read yet.
    fn take_content<'a>(&mut self, left: u64, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (content, rest) = input.split_at(here);
        out.extend_from_slice(content);
        let left = left - here as u64;
        self.state = if left == 0 { ChunkState::ContentCr } else { ChunkState::Content { left } };
        rest
    }

    /// What the state is behind `byte`, which is not content.
    fn next(&mut self, state: ChunkState, byte: u8) -> Result<ChunkState, BadChunk> {
        use ChunkState::{End, Extension, Size, SizeEnd, Space, Trailer, TrailerEnd, TrailerName, TrailerValue};
        Ok(match (state, byte) {
            (Size { digits: 1.., size }, b'\r') => SizeEnd { size },
            (Size { digits: 1.., size } | Space { size, .. }, b';') => Extension { length: 1, size },
            (Size { digits: 1.., size }, b' ' | b'\t') => Space { length: 1, size },
            (Size { digits, size }, _) if digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk::Size)?;
                Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (Size { .. }, _) => return Err(BadChunk::Size),

            (Space { length, size }, b' ' | b'\t') if length < MAX_EXTENSION => Space { length: length + 1, size },
            (Extension { size, .. }, b'\r') => SizeEnd { size },
            (Extension { length, size }, _) if length < MAX_EXTENSION && is_text(byte) => {
                Extension { length: length + 1, size }
            }
            (Space { .. } | Extension { .. }, _) => return Err(BadChunk::Extension),

            (SizeEnd { size: 0 }, b'\n') => Trailer,
            (SizeEnd { size: left }, b'\n') => ChunkState::Content { left },
            (ChunkState::ContentCr, b'\r') => ChunkState::ContentLf,
            (ChunkState::ContentLf, b'\n') => Size { digits: 0, size: 0 },

            (Trailer, b'\r') => End,
            (TrailerName, b':') | (TrailerValue, _) if is_text(byte) => self.keep(byte, TrailerValue)?,
            (Trailer | TrailerName, _) if is_token(byte) => self.keep(byte, TrailerName)?,
            (TrailerValue, b'\r') => self.keep(byte, TrailerEnd)?,
            (TrailerEnd, b'\n') if self.trailer_count == MAX_TRAILERS_COUNT => return Err(BadChunk::TooManyTrailers),
            (TrailerEnd, b'\n') => {
                self.trailer_count += 1;
                self.keep(byte, Trailer)?
            }
            (Trailer | TrailerName | TrailerValue, _) => return Err(BadChunk::Trailer),
            (End, b'\n') => ChunkState::Done,

            (SizeEnd { .. } | ChunkState::ContentCr | ChunkState::ContentLf | TrailerEnd | End, _) => {
                return Err(BadChunk::LineEnd);
            }
            (ChunkState::Content { .. } | ChunkState::Done, _) => state,
        })
    }

    /// Keeps a trailer's byte, and goes to `then`.
    fn keep(&mut self, byte: u8, then: ChunkState) -> Result<ChunkState, BadChunk> {
        if self.trailers.len() == MAX_TRAILERS {
            return Err(BadChunk::TooManyTrailers);
        }
        self.trailers.push(byte);
        Ok(then)
    }
}

impl Default for ChunkState {
    fn default() -> Self {
        Self::Size { digits: 0, size: 0 }
    }
}

impl fmt::Display for BadChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "the size of a chunk is not a hexadecimal number of 1 to 16 digits",
            Self::Extension => "the extension of a chunk is longer than 4 KiB, or is not text",
            Self::LineEnd => "a line, or the content of a chunk, does not end with CR LF",
            Self::Trailer => "a trailer is not a header field",
            Self::TooManyTrailers => "there are more than 64 trailers, or more than 8 KiB of them",
        })
    }
}

impl std::error::Error for BadChunk {}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may stand in a field's value, or here in an extension (RFC 9110, section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, the trailers, and what is behind the body, or nothing if it does not end.
    type Read = Result<(Vec<u8>, Vec<u8>, Option<Vec<u8>>), BadChunk>;

    /// Reads pieces as a connection would give them: what is not consumed is not given again.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let (mut decoder, mut content, mut behind) = (Decoder::new(), Vec::new(), None);
        for piece in pieces {
            let before = content.len();
            let Decoded { consumed, done } = decoder.decode(piece, &mut content)?;
            assert!(content.len() - before <= consumed && (done || consumed == piece.len()));
            if done {
                behind.get_or_insert_with(Vec::new).extend_from_slice(&piece[consumed..]);
            }
            assert_eq!(done, decoder.is_done());
        }
        Ok((content, decoder.trailers().to_vec(), behind))
    }

    /// Reads at once, byte by byte, and cut in two at every place: all must be the same.
    #[track_caller]
    fn read_every_way(input: &[u8]) -> Read {
        let whole = read([input]);
        assert_eq!(read(input.chunks(1)), whole, "byte by byte: {}", input.escape_ascii());
        for at in 0..=input.len() {
            let (left, right) = input.split_at(at);
            assert_eq!(read([left, right]), whole, "cut at {at}: {}", input.escape_ascii());
        }
        whole
    }

    /// `¶` is CR LF.
    fn bytes(text: &str) -> Vec<u8> {
        text.replace('¶', "\r\n").into_bytes()
    }

    #[test]
    fn a_body_is_its_chunks_and_ends_with_the_last() {
        /// Input; content, trailers, what is behind.
        type Case<'a> = (&'a str, &'a str, &'a str, &'a str);
        let cases: [Case<'_>; 16] = [
            ("0¶¶", "", "", ""),
            ("000¶¶", "", "", ""),
            ("5¶hello¶0¶¶", "hello", "", ""),
            ("5¶hello¶1¶ ¶05¶world¶0¶¶", "hello world", "", ""),
            ("a¶0123456789¶A¶0123456789¶0¶¶", "01234567890123456789", "", ""),
            ("0000000000000002¶ab¶0¶¶", "ab", "", ""),
            ("2¶¶¶0¶¶", "\r\n", "", ""),
            ("5¶0¶¶¶0¶¶", "0¶¶", "", ""),
            // What is behind is the next message's.
            ("0¶¶GET / HTTP/1.1¶", "", "", "GET / HTTP/1.1¶"),
            ("1¶a¶0¶¶¶", "a", "", "¶"),
            // Extensions.
            ("1;a¶a¶0;b=\"c;\\\"\";d¶¶", "a", "", ""),
            ("1 ;\ta = b\t¶a¶0\t ; \u{e9}¶¶", "a", "", ""),
            ("1;¶a¶0;;=¶¶", "a", "", ""),
            // Case: trailers
            ("0¶X: 1¶¶", "", "X: 1¶", ""),
            ("0¶Content-Length: 7¶Host: evil¶!#$:\t\u{e9}¶¶G", "", "Content-Length: 7¶Host: evil¶!#$:\t\u{e9}¶", "G"),
            ("0¶A:¶B::¶¶", "", "A:¶B::¶", ""),
        ];
        for (input, content, trailers, behind) in cases {
            let expected = (bytes(content), bytes(trailers), Some(bytes(behind)));
            assert_eq!(read_every_way(&bytes(input)), Ok(expected), "{input}");
        }
    }

    #[test]
    fn what_another_reader_could_read_otherwise_is_refused() {
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
            ("5;a=\"¶\"¶hello¶0¶¶", LineEnd),
            ("5;\0¶hello¶0¶¶", Extension),
            ("5;\u{7f}¶hello¶0¶¶", Extension),
            // White space stands before an extension only.
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
            assert_eq!(read_every_way(&bytes(input)), Err(bad), "{input}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_limits() {
        let extension = |length: usize| format!("1;{}¶a¶0¶¶", "x".repeat(length - 1));
        let spaces = |length: usize| format!("1{};¶a¶0¶¶", " ".repeat(length));
        let trailer = |length: usize| format!("0¶X:{}¶¶", "x".repeat(length - "X:\r\n".len()));
        let trailers = |count: usize| format!("0¶{}¶", "X: 1¶".repeat(count));
        let cases = [
            (extension(MAX_EXTENSION), None),
            (extension(MAX_EXTENSION + 1), Some(BadChunk::Extension)),
            (extension(64 << 10), Some(BadChunk::Extension)),
            (spaces(MAX_EXTENSION), None),
            (spaces(MAX_EXTENSION + 1), Some(BadChunk::Extension)),
            (trailer(MAX_TRAILERS), None),
            (trailer(MAX_TRAILERS + 1), Some(BadChunk::TooManyTrailers)),
            (trailers(MAX_TRAILERS_COUNT), None),
            (trailers(MAX_TRAILERS_COUNT + 1), Some(BadChunk::TooManyTrailers)),
        ];
        for (input, expected) in cases {
            let input = bytes(&input);
            assert_eq!(read([&input[..]]).err(), expected, "{}", input.len());
            assert_eq!(read(input.chunks(1)).err(), expected, "{}", input.len());
        }
    }

    #[test]
    fn a_body_that_is_cut_short_is_not_done() {
        let input = bytes("5;a=b¶hello¶0¶X: 1¶¶");
        for end in 0..input.len() {
            let (_, _, behind) = read([&input[..end]]).expect("nothing wrong so far");
            assert_eq!(behind, None, "{end}");
        }
        let (content, ..) = read([&b"ffffffffffffffff\r\nabc"[..]]).expect("nothing wrong so far");
        assert_eq!(content, b"abc", "what has come of a large chunk is given at once");
    }

    #[test]
    fn mutated_bodies_never_panic_and_read_the_same_in_pieces() {
        let seeds = ["5¶hello¶0¶¶G", "5;a=\"b\"¶hello¶A ;c¶0123456789¶0¶X: 1¶Y: 2¶¶G", "ffffffffffffffff¶a"].map(bytes);
        let mut rng = fastrand::Rng::with_seed(9);
        let (mut whole, mut refused) = (0, 0);
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
            let at_once = read([&input[..]]);
            assert_eq!(read(input.chunks(rng.usize(1..8))), at_once, "{}", input.escape_ascii());
            whole += usize::from(matches!(at_once, Ok((_, _, Some(_)))));
            refused += usize::from(at_once.is_err());
        }
        assert!(whole > 1000 && refused > 1000, "{whole} were whole, {refused} were refused");
    }
}
