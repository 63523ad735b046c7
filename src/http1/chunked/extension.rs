//! The grammar of a chunk extension (RFC 9112, section 7.1.1): `;name`, `;name=token` or `;name="quoted"`, any number
//! of them, with white space around `;` and `=`. Pure.

use crate::http1::headers::{is_text, is_token};

/// The part of an extension that the last byte belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) enum ExtensionPart {
    /// The `;` and the white space after it; a name must follow.
    Semicolon,
    Name,
    /// White space after a name.
    NameSpace,
    /// The `=` and the white space after it; a value must follow.
    Equals,
    Token,
    /// Within a quoted string.
    Quoted,
    /// A `\` within a quoted string.
    Escape,
    /// The end of a quoted string.
    QuotedEnd,
    /// White space after a value; another extension must follow.
    ValueSpace,
    /// Anything after a violation of the grammar.
    Invalid,
}

impl ExtensionPart {
    /// The part that `byte` belongs to if it follows this one, or `None` if it must not.
    pub(super) fn next(self, byte: u8) -> Option<Self> {
        use ExtensionPart::{
            Equals, Escape, Invalid, Name, NameSpace, Quoted, QuotedEnd, Semicolon, Token, ValueSpace,
        };
        Some(match (self, byte) {
            (Invalid, _) => return None,
            (Quoted, b'"') => QuotedEnd,
            (Quoted, b'\\') => Escape,
            (Quoted | Escape, _) if is_text(byte) => Quoted,
            (Quoted | Escape, _) => return None,
            (Semicolon | Equals, b' ' | b'\t') => self,
            (Name | NameSpace, b' ' | b'\t') => NameSpace,
            (Token | QuotedEnd | ValueSpace, b' ' | b'\t') => ValueSpace,
            (Name | NameSpace | Token | QuotedEnd | ValueSpace, b';') => Semicolon,
            (Name | NameSpace, b'=') => Equals,
            (Equals, b'"') => Quoted,
            (Semicolon | Name, _) if is_token(byte) => Name,
            (Equals | Token, _) if is_token(byte) => Token,
            _ => return None,
        })
    }

    /// Whether the line may end here.
    pub(super) fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::QuotedEnd)
    }
}
