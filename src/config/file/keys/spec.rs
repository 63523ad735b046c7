//! How a key is described: its type, its range, and the meaning of leaving it out.

use std::ops::RangeInclusive;

/// One key of a table.
#[derive(Debug)]
pub struct KeySpec {
    pub name: &'static str,
    pub value: ValueType,
    pub presence: Presence,
    /// Markdown that editors and the documentation show.
    pub about: &'static str,
}

/// The meaning of a key that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It must not be left out.
    Required,
    /// The default in `defaults.rs`.
    Defaulted,
    /// Nothing, or a value that depends on other keys.
    Optional,
}

/// The type and the range of a key's value.
#[derive(Debug)]
pub enum ValueType {
    Text(TextFormat),
    /// An array of strings.
    TextList(TextFormat),
    /// A table of strings, with any keys.
    TextTable,
    /// `"10s"`
    Duration {
        /// Whether `"0s"` is allowed.
        zero: bool,
    },
    Size(RangeInclusive<u64>),
    Percent,
    Integer(RangeInclusive<i64>),
    Number(RangeInclusive<f64>),
    Boolean,
    /// `true`, `false`, or a string.
    BooleanOrText(TextFormat),
    Choice(&'static [&'static str]),
    /// `[key]`
    Table(&'static [KeySpec]),
    /// `[key]`, or `false` to turn it off where the top level turns it on.
    TableOrFalse(&'static [KeySpec]),
    /// `[key]`, or `true` for its defaults, or `false` to turn it off where the top level turns it on.
    TableOrBoolean(&'static [KeySpec]),
    /// `[[key]]`
    TableArray(&'static [KeySpec]),
    /// `[key.NAME]`
    NamedTables(&'static [KeySpec]),
}

/// The format of a string. The functions in `values.rs` are the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// Anything printable.
    Label,
    /// Letters, digits, `.`, `_`, `-`.
    Name,
    /// `host:port`
    Address,
    Host,
    HostPattern,
    Path,
    /// A path, or empty.
    OptionalPath,
    /// A `Host` header, or empty.
    Authority,
    /// Anything, or empty.
    OptionalText,
    /// A duration, or empty.
    OptionalDuration,
    HeaderName,
    Statuses,
    Cookie,
    /// `http://…`, or empty.
    Url,
    /// `https://…`
    HttpsUrl,
    /// A mail address, or empty.
    Email,
    /// A network or an IP address.
    Network,
    Files,
    /// A file, or empty.
    OptionalFile,
    /// A host name, or empty.
    OptionalHost,
    /// `h2` or `http/1.1`
    Protocol,
    /// `https`, `https:PORT`, or empty.
    HttpsRedirect,
    /// Permissions in octal.
    Mode,
    /// A directory, or empty.
    Directory,
    Filter,
}

impl TextFormat {
    /// Whether an empty text means that there is none.
    pub(crate) fn may_be_empty(self) -> bool {
        matches!(
            self,
            Self::OptionalPath
                | Self::Authority
                | Self::OptionalText
                | Self::OptionalFile
                | Self::OptionalHost
                | Self::HttpsRedirect
                | Self::OptionalDuration
                | Self::Url
                | Self::Email
                | Self::Directory
        )
    }
}
