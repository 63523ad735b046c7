//! The chunked coding (RFC 9112, section 7.1): a body in chunks, each preceded by its size. Pure.
//!
//! The decoder accepts the grammar and nothing else: another implementation may understand a deviation
//! differently, which is how requests are smuggled. Lines end with CR LF, and a size has 1 to 16
//! hexadecimal digits.

use std::fmt;

/// The longest chunk extension, in bytes. Extensions are skipped.
const MAX_EXTENSION: usize = 4 << 10;
/// The longest trailer section, in bytes.
const MAX_TRAILER_BYTES: usize = 8 << 10;
/// The most trailers in a trailer section.
const MAX_TRAILERS: usize = 64;
/// The most digits of a size; 16 fit 64 bits.
const MAX_DIGITS: usize = 16;

/// An incremental decoder of one body: the input may be split anywhere.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    state: ChunkState,
    /// The lines of the trailer section, each with its CR LF.
    trailers: Vec<u8>,
    trailer_count: usize,
}

/// The result of decoding one piece of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// The number of input bytes that belong to the body: all of them, unless the body has ended.
    pub consumed: usize,
    /// Whether the body has ended.
    pub done: bool,
}

/// A violation of the chunked coding. The end of the body is then unknown, and so is the start of the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadChunk {
    /// A size that is not 1 to 16 hexadecimal digits, followed by nothing but an extension (section 7.1).
    Size,
    /// An extension of more than 4 KiB, or with a control character (section 7.1.1).
    Extension,
    /// A line, or a chunk's data, that does not end with CR LF (sections 2.2 and 7.1).
    LineEnd,
    /// A trailer that is not a valid header line (sections 5 and 7.1.2).
    Trailer,
    /// More than 64 trailers, or more than 8 KiB of them (RFC 6585, section 5).
    TooManyTrailers,
}

/// The next expected byte, as far as the bytes before determine it.
#[derive(Debug, Clone, Copy)]
enum ChunkState {
    /// A digit of the size, or the first byte after the size.
    Size { digits: usize, size: u64 },
    /// White space after the size; an extension must follow.
    Space { length: usize, size: u64 },
    /// Within an extension.
    Extension { length: usize, size: u64 },
    /// The LF after the size or its extension.
    SizeEnd { size: u64 },
    /// Within a chunk's data.
    Data { remaining: u64 },
    /// The CR after a chunk's data.
    DataCr,
    /// The LF after a chunk's data.
    DataLf,
    /// The first byte of a trailer, or the CR of the empty line.
    Trailer,
    /// Within a trailer's name.
    TrailerName,
    /// Within a trailer's value.
    TrailerValue,
    /// The LF of a trailer.
    TrailerEnd,
    /// The LF of the empty line.
    End,
    /// The body has ended.
    Done,
}

impl Decoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes `input`, at most to the end of the body, and appends the data to `out`: never more bytes
    /// than `input` has.
    ///
    /// # Errors
    /// [`BadChunk`]; the rest of the body cannot be decoded then.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Decoded, BadChunk> {
        let mut rest = input;
        while let [byte, after @ ..] = rest {
            rest = match self.state {
                ChunkState::Done => break,
                ChunkState::Data { remaining } => self.copy_data(remaining, rest, out),
                state => {
                    self.state = self.next(state, *byte)?;
                    after
                }
            };
        }
        Ok(Decoded { consumed: input.len() - rest.len(), done: self.is_done() })
    }

    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, ChunkState::Done)
    }

    /// The trailer section as received, each line with its CR LF. Trailers must not be merged into the
    /// headers: RFC 9110, section 6.5.1, lists those that are meaningless or harmful there.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Copies the available part of a chunk's data, of which `remaining` bytes are missing, and returns
    /// the input after it.
    fn copy_data<'a>(&mut self, remaining: u64, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let available = usize::try_from(remaining).unwrap_or(usize::MAX).min(input.len());
        let (content, rest) = input.split_at(available);
        out.extend_from_slice(content);
        let remaining = remaining - available as u64;
        self.state = if remaining == 0 { ChunkState::DataCr } else { ChunkState::Data { remaining } };
        rest
    }

    /// Returns the state after `byte`, which is not chunk data.
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
            (SizeEnd { size: remaining }, b'\n') => ChunkState::Data { remaining },
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => Size { digits: 0, size: 0 },

            (Trailer, b'\r') => End,
            (TrailerName, b':') | (TrailerValue, _) if is_text(byte) => self.push_trailer(byte, TrailerValue)?,
            (Trailer | TrailerName, _) if is_token(byte) => self.push_trailer(byte, TrailerName)?,
            (TrailerValue, b'\r') => self.push_trailer(byte, TrailerEnd)?,
            (TrailerEnd, b'\n') if self.trailer_count == MAX_TRAILERS => return Err(BadChunk::TooManyTrailers),
            (TrailerEnd, b'\n') => {
                self.trailer_count += 1;
                self.push_trailer(byte, Trailer)?
            }
            (Trailer | TrailerName | TrailerValue, _) => return Err(BadChunk::Trailer),
            (End, b'\n') => ChunkState::Done,

            (SizeEnd { .. } | ChunkState::DataCr | ChunkState::DataLf | TrailerEnd | End, _) => {
                return Err(BadChunk::LineEnd);
            }
            (ChunkState::Data { .. } | ChunkState::Done, _) => state,
        })
    }

    /// Keeps a byte of the trailer section and returns `next`.
    fn push_trailer(&mut self, byte: u8, next: ChunkState) -> Result<ChunkState, BadChunk> {
        if self.trailers.len() == MAX_TRAILER_BYTES {
            return Err(BadChunk::TooManyTrailers);
        }
        self.trailers.push(byte);
        Ok(next)
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
            Self::Size => "a chunk size is not a hexadecimal number of 1 to 16 digits",
            Self::Extension => "a chunk extension is longer than 4 KiB or contains a control character",
            Self::LineEnd => "a line or a chunk's data does not end with CR LF",
            Self::Trailer => "a trailer is not a valid header line",
            Self::TooManyTrailers => "the trailer section has more than 64 trailers or more than 8 KiB",
        })
    }
}

impl std::error::Error for BadChunk {}

/// A byte of a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a field value (RFC 9110, section 5.5); extensions are held to the same bytes.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, the trailers, and the bytes after the body, which are `None` if the body has not ended.
    type DecodedBody = Result<(Vec<u8>, Vec<u8>, Option<Vec<u8>>), BadChunk>;

    /// Decodes a body that arrives in these pieces.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> DecodedBody {
        let (mut decoder, mut content, mut after) = (Decoder::new(), Vec::new(), None);
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
    fn decode_in_every_split(input: &[u8]) -> DecodedBody {
        let at_once = decode([input]);
        assert_eq!(decode(input.chunks(1)), at_once, "byte by byte: {}", input.escape_ascii());
        for at in 0..=input.len() {
            let (left, right) = input.split_at(at);
            assert_eq!(decode([left, right]), at_once, "split at {at}: {}", input.escape_ascii());
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
        let cases: [BodyCase<'_>; 16] = [
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
            ("1;a¶a¶0;b=\"c;\\\"\";d¶¶", "a", "", ""),
            ("1 ;\ta = b\t¶a¶0\t ; \u{e9}¶¶", "a", "", ""),
            ("1;¶a¶0;;=¶¶", "a", "", ""),
            // Case: trailers
            ("0¶X: 1¶¶", "", "X: 1¶", ""),
            ("0¶Content-Length: 7¶Host: evil¶!#$:\t\u{e9}¶¶G", "", "Content-Length: 7¶Host: evil¶!#$:\t\u{e9}¶", "G"),
            ("0¶A:¶B::¶¶", "", "A:¶B::¶", ""),
        ];
        for (input, content, trailers, after) in cases {
            let expected = (bytes(content), bytes(trailers), Some(bytes(after)));
            assert_eq!(decode_in_every_split(&bytes(input)), Ok(expected), "{input}");
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
            ("5;a=\"¶\"¶hello¶0¶¶", LineEnd),
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
            assert_eq!(decode_in_every_split(&bytes(input)), Err(bad), "{input}");
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
            (trailer(MAX_TRAILER_BYTES), None),
            (trailer(MAX_TRAILER_BYTES + 1), Some(BadChunk::TooManyTrailers)),
            (trailers(MAX_TRAILERS), None),
            (trailers(MAX_TRAILERS + 1), Some(BadChunk::TooManyTrailers)),
        ];
        for (input, expected) in cases {
            let input = bytes(&input);
            assert_eq!(decode([&input[..]]).err(), expected, "{}", input.len());
            assert_eq!(decode(input.chunks(1)).err(), expected, "{}", input.len());
        }
    }

    #[test]
    fn a_truncated_body_is_not_done() {
        let input = bytes("5;a=b¶hello¶0¶X: 1¶¶");
        for end in 0..input.len() {
            let (_, _, after) = decode([&input[..end]]).expect("valid so far");
            assert_eq!(after, None, "{end}");
        }
        let (content, ..) = decode([&b"ffffffffffffffff\r\nabc"[..]]).expect("valid so far");
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
            let at_once = decode([&input[..]]);
            assert_eq!(decode(input.chunks(rng.usize(1..8))), at_once, "{}", input.escape_ascii());
            complete += usize::from(matches!(at_once, Ok((_, _, Some(_)))));
            rejected += usize::from(at_once.is_err());
        }
        assert!(complete > 1000 && rejected > 1000, "{complete} were complete, {rejected} were rejected");
    }
}
