//! Numbers and texts of access log lines, escaped.

use std::time::Duration;

pub(super) fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn write_seconds(value: Duration, out: &mut Vec<u8>) {
    write_integer(value.as_secs(), out);
    out.push(b'.');
    write_digits::<6>(value.subsec_micros(), out);
}

/// The last `N` decimal digits, with leading zeros.
pub(super) fn write_digits<const N: usize>(mut value: u32, out: &mut Vec<u8>) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

/// Writes a header's name, which has no character to escape.
pub(super) fn write_lower_case(name: &str, out: &mut Vec<u8>) {
    out.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
}

/// Writes `bytes` in lower-case hexadecimal.
pub(super) fn write_hex<const N: usize>(bytes: [u8; N], out: &mut Vec<u8>) {
    out.extend_from_slice(const_hex::Buffer::<N>::new().format(&bytes).as_bytes());
}

/// Writes `word` as it is if that is unambiguous, else in quotes.
pub(super) fn write_word(word: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if !word.is_empty() && word.iter().all(plain) {
        out.extend_from_slice(word);
    } else {
        out.push(b'"');
        escape_text(word, out);
        out.push(b'"');
    }
}

fn needs_no_escape(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

pub(super) fn escape_text(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = text.iter().position(|byte| !needs_no_escape(byte)) {
        out.extend_from_slice(&text[..at]);
        match text[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                out.extend_from_slice(b"\\x");
                write_hex([byte], out);
            }
        }
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

/// Writes each byte that is not printable, quotes and backslashes as `\xHH`.
pub(super) fn escape_hex(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = text.iter().position(|byte| !needs_no_escape(byte)) {
        out.extend_from_slice(&text[..at]);
        out.extend_from_slice(b"\\x");
        write_hex([text[at]], out);
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

pub(super) fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    if text.iter().all(needs_no_escape) {
        return out.extend_from_slice(text);
    }
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            match u8::try_from(char) {
                Ok(byte @ (b'"' | b'\\')) => out.extend_from_slice(&[b'\\', byte]),
                Ok(byte) if needs_no_escape(&byte) => out.push(byte),
                _ => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        out.extend_from_slice(b"\\u");
                        write_hex(unit.to_be_bytes(), out);
                    }
                }
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}
