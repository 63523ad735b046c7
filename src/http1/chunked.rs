//! The chunked coding (RFC 9112, section 7.1): a body in chunks, each preceded by its size. Pure.
//!
//! From a client, the decoder accepts the grammar and nothing else: another implementation may understand a
//! deviation differently, which is how requests are smuggled. Lines end with CR LF, and a size has 1 to 16
//! hexadecimal digits. From a server, it also accepts the deviations that all clients accept
//! (`Decoder::tolerate`): they leave no doubt where the body ends, and `lb` does not forward them.

mod extension;

use std::fmt;

use self::extension::ExtensionPart;
use crate::http1::framing::Sender;
use crate::http1::headers::{is_text, is_token};

/// The longest chunk extension, in bytes, with the white space before it. Extensions are skipped.
const MAX_EXTENSION: usize = 4 << 10;
/// The extensions of a client's body may have this many bytes more than its data.
const MAX_EXTENSIONS: u64 = 16 << 10;
/// The longest trailer section, in bytes.
const MAX_TRAILER_BYTES: usize = 8 << 10;
/// The most trailers in a trailer section.
const MAX_TRAILERS: usize = 64;
/// The most digits of a size; 16 fit 64 bits.
const MAX_DIGITS: usize = 16;
/// The most digits of a server's size, with leading zeros.
const MAX_PADDED_DIGITS: usize = 256;

/// An incremental decoder of one body: the input may be split anywhere.
#[derive(Debug, Clone)]
pub struct Decoder {
    sender: Sender,
    state: ChunkState,
    /// Whether a lone LF may end the data: the size ended with one too, or the data does not end with CR. Otherwise data
    /// that is one byte short, and ends with CR LF, would seem to be complete.
    lone_line_feed: bool,
    /// The number of bytes of data so far.
    content: u64,
    /// The number of bytes of extensions so far.
    extensions: u64,
    /// The lines of the trailer section, each with its CR LF.
    trailers: Vec<u8>,
    trailer_count: usize,
    /// Whether the rest of the trailers is dropped, because a server sends more than the limits allow.
    drops_trailers: bool,
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
    /// An extension that does not follow the grammar or exceeds 4 KiB, or a client's extensions that exceed the data by
    /// more than 16 KiB (section 7.1.1).
    Extension,
    /// A line, or a chunk's data, that does not end with CR LF (sections 2.2 and 7.1).
    LineEnd,
    /// A trailer that is not a valid header line (sections 5 and 7.1.2).
    Trailer,
    /// More than 64 trailers, or more than 8 KiB of them, from a client (RFC 6585, section 5).
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
    Extension { part: ExtensionPart, length: usize, size: u64 },
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
    /// White space after a trailer's name; only from servers.
    TrailerSpace,
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
    pub fn new(sender: Sender) -> Self {
        Self {
            sender,
            state: ChunkState::default(),
            lone_line_feed: false,
            content: 0,
            extensions: 0,
            trailers: Vec::new(),
            trailer_count: 0,
            drops_trailers: false,
        }
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
                    self.state = self.next(state, *byte).or_else(|bad| self.tolerate(state, *byte, bad))?;
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

    /// The trailer section, each line in canonical form and with its CR LF. Trailers must not be merged into
    /// the headers: RFC 9110, section 6.5.1, lists those that are meaningless or harmful there.
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
        self.content = self.content.saturating_add(available as u64);
        let remaining = remaining - available as u64;
        self.lone_line_feed |= remaining == 0 && !content.ends_with(b"\r");
        self.state = if remaining == 0 { ChunkState::DataCr } else { ChunkState::Data { remaining } };
        rest
    }

    /// Returns the state after `byte`, which is not chunk data, by the grammar.
    fn next(&mut self, state: ChunkState, byte: u8) -> Result<ChunkState, BadChunk> {
        use ChunkState::{End, Extension, Size, SizeEnd, Space, Trailer, TrailerEnd, TrailerName, TrailerValue};
        Ok(match (state, byte) {
            (Size { digits: 1.., size }, b'\r') => SizeEnd { size },
            (Size { digits: 1.., size } | Space { size, .. }, b';') => {
                let length = self.count_extension(0)?;
                Extension { part: ExtensionPart::Semicolon, length, size }
            }
            (Size { digits: 1.., size }, b' ' | b'\t') => Space { length: self.count_extension(0)?, size },
            (Size { digits, size }, _) if digits < MAX_DIGITS => {
                Size { digits: digits + 1, size: size << 4 | u64::from(hex_digit(byte)?) }
            }
            (Size { .. }, _) => return Err(BadChunk::Size),

            (Space { length, size }, b' ' | b'\t') => Space { length: self.count_extension(length)?, size },
            (Extension { part, size, .. }, b'\r') if part.may_end() => SizeEnd { size },
            (Extension { part, length, size }, _) => {
                let part = part.next(byte).ok_or(BadChunk::Extension)?;
                Extension { part, length: self.count_extension(length)?, size }
            }
            (Space { .. }, _) => return Err(BadChunk::Extension),

            (SizeEnd { size }, b'\n') => {
                self.lone_line_feed = false;
                after_size(size)
            }
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => ChunkState::default(),

            (Trailer, b'\r') => End,
            (TrailerName, b':') | (TrailerValue, _) if is_text(byte) => self.push_trailer(byte, TrailerValue)?,
            (Trailer | TrailerName, _) if is_token(byte) => self.push_trailer(byte, TrailerName)?,
            (TrailerValue, b'\r') => self.push_trailer(byte, TrailerEnd)?,
            (TrailerEnd, b'\n') => self.end_trailer()?,
            (Trailer | TrailerName | ChunkState::TrailerSpace | TrailerValue, _) => return Err(BadChunk::Trailer),
            (End, b'\n') => ChunkState::Done,

            (SizeEnd { .. } | ChunkState::DataCr | ChunkState::DataLf | TrailerEnd | End, _) => {
                return Err(BadChunk::LineEnd);
            }
            (ChunkState::Data { .. } | ChunkState::Done, _) => state,
        })
    }

    /// Returns the state after a byte that violates the grammar, if a server sent it and it is one of the usual
    /// deviations: a lone LF as a line end; white space after the size; leading zeros; anything in an extension; and,
    /// in a trailer, white space before the colon, folding, and control characters (which become spaces). Trailers beyond
    /// the limits are dropped.
    #[cold]
    fn tolerate(&mut self, state: ChunkState, byte: u8, bad: BadChunk) -> Result<ChunkState, BadChunk> {
        use ChunkState::{DataCr, Extension, Size, SizeEnd, Space, Trailer, TrailerName, TrailerSpace, TrailerValue};
        if self.sender == Sender::Client {
            return Err(bad);
        }
        Ok(match (state, byte) {
            (Size { digits: 1.., size } | Space { size, .. } | Extension { size, .. }, b'\n') => {
                self.lone_line_feed = true;
                after_size(size)
            }
            (Space { size, .. } | Extension { size, .. }, b'\r') => SizeEnd { size },
            (Size { digits: digits @ MAX_DIGITS..MAX_PADDED_DIGITS, size }, _) if size >> 60 == 0 => {
                Size { digits: digits + 1, size: size << 4 | u64::from(hex_digit(byte)?) }
            }
            (Extension { length, size, .. }, 1..) => {
                Extension { part: ExtensionPart::Invalid, length: self.count_extension(length)?, size }
            }
            (DataCr, b'\n') if self.lone_line_feed => ChunkState::default(),
            (Trailer, b'\n') => ChunkState::Done,
            (Trailer, b' ' | b'\t') if self.trailer_count > 0 => {
                if !self.drops_trailers {
                    self.trailers.truncate(self.trailers.len() - b"\r\n".len());
                    self.trailer_count -= 1;
                }
                self.push_trailer(b' ', TrailerValue)?
            }
            (TrailerName | TrailerSpace, b' ' | b'\t') => TrailerSpace,
            (TrailerSpace, b':') => self.push_trailer(byte, TrailerValue)?,
            (TrailerValue, b'\n') => {
                self.push_trailer(b'\r', TrailerValue)?;
                self.end_trailer()?
            }
            (TrailerValue, 1..) => self.push_trailer(b' ', TrailerValue)?,
            _ => return Err(bad),
        })
    }

    /// Counts a byte of an extension that has this length so far, and returns its new length.
    fn count_extension(&mut self, length: usize) -> Result<usize, BadChunk> {
        // A server that pads its sizes may stream small chunks for hours.
        let is_limited = self.sender == Sender::Client;
        if length == MAX_EXTENSION || is_limited && self.extensions == self.content.saturating_add(MAX_EXTENSIONS) {
            return Err(BadChunk::Extension);
        }
        self.extensions += 1;
        Ok(length + 1)
    }

    /// Keeps a byte of the trailer section and returns `next`.
    fn push_trailer(&mut self, byte: u8, next: ChunkState) -> Result<ChunkState, BadChunk> {
        if self.trailers.len() == MAX_TRAILER_BYTES {
            self.drop_trailers()?;
        }
        if !self.drops_trailers {
            self.trailers.push(byte);
        }
        Ok(next)
    }

    /// Ends a trailer with its LF.
    fn end_trailer(&mut self) -> Result<ChunkState, BadChunk> {
        if self.trailer_count == MAX_TRAILERS {
            self.drop_trailers()?;
        }
        let next = self.push_trailer(b'\n', ChunkState::Trailer)?;
        self.trailer_count += usize::from(!self.drops_trailers);
        Ok(next)
    }

    /// Drops the current trailer and those that follow, if a server sends too many. They do not affect where the body ends.
    fn drop_trailers(&mut self) -> Result<(), BadChunk> {
        if self.sender == Sender::Client {
            return Err(BadChunk::TooManyTrailers);
        }
        let complete = self.trailers.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.trailers.truncate(complete);
        self.drops_trailers = true;
        Ok(())
    }
}

fn after_size(size: u64) -> ChunkState {
    if size == 0 { ChunkState::Trailer } else { ChunkState::Data { remaining: size } }
}

fn hex_digit(byte: u8) -> Result<u32, BadChunk> {
    char::from(byte).to_digit(16).ok_or(BadChunk::Size)
}

impl Default for ChunkState {
    fn default() -> Self {
        Self::Size { digits: 0, size: 0 }
    }
}

impl BadChunk {
    /// The violated rule as one word, for the log.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Size => "chunk_size",
            Self::Extension => "chunk_extension",
            Self::LineEnd => "chunk_end",
            Self::Trailer => "trailer",
            Self::TooManyTrailers => "too_many_trailers",
        }
    }

    /// The explanation of a violation, in one sentence.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Size => "A chunk size is not a hexadecimal number of 1 to 16 digits.",
            Self::Extension => "A chunk extension is invalid or too long.",
            Self::LineEnd => "A line or a chunk's data does not end with CR LF.",
            Self::Trailer => "A trailer is not a valid header line.",
            Self::TooManyTrailers => "There are more than 64 trailers, or more than 8 KiB of them.",
        }
    }
}

impl fmt::Display for BadChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.detail().trim_end_matches('.');
        let (first, rest) = detail.split_at(1);
        write!(f, "{}{rest}", first.to_lowercase())
    }
}

impl std::error::Error for BadChunk {}

#[cfg(test)]
mod tests;
