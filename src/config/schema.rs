//! The JSON Schema of `lb.toml`, for editors, generated from the keys and the defaults.

use serde_json::{Map, Value, json};

use crate::config::file::keys::{self, KeySpec, Presence, TextFormat, ValueType};
use crate::config::file::parse;
use crate::config::source::SourceFile;

/// The schema's file name, to which the first line of a configuration refers.
pub const FILE: &str = "lb.schema.json";

/// A configuration that sets only keys without a default.
const MINIMAL: &str = "balance.sticky = {}\nupstream.tls = true\n[[listener]]\naddress = \"127.0.0.1:1\"\ntls = {}\n\
    [[certificate]]\nfile = \"a\"\nkey = \"a\"\n\
    [[server]]\nname = \"a\"\naddress = \"a:1\"\n[[route]]\npool = \"default\"\n";

/// The schema as text, with a trailing newline.
#[must_use]
pub fn text() -> String {
    // Plain values under string keys always serialize.
    serde_json::to_string_pretty(&schema()).unwrap_or_default() + "\n"
}

/// The schema. It has no references, because not every TOML editor supports them, and no required tables, because an
/// included file is only part of a configuration.
#[must_use]
pub fn schema() -> Value {
    let mut schema = table(keys::ROOT, &defaults());
    let more = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lb.toml",
        "description": "The configuration of lb, or a part that it includes.",
    });
    if let (Some(schema), Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
    schema
}

/// Every default, in the tables of the file.
fn defaults() -> Value {
    let parsed = parse(&[SourceFile::new("", MINIMAL)], &|_| None).ok();
    let mut all = parsed.and_then(|config| serde_json::to_value(config).ok()).unwrap_or_default();
    // A pool's inherited rules are at the top level of the file.
    let pool = all["pool"][0].take();
    for key in ["balance", "health", "retry", "upstream", "server"] {
        all[key] = pool[key].clone();
    }
    all["include"] = json!([]);
    all
}

fn table(keys: &[KeySpec], defaults: &Value) -> Value {
    let properties: Map<String, Value> =
        keys.iter().map(|key| (key.name.to_owned(), property(key, defaults))).collect();
    let required: Vec<&str> =
        keys.iter().filter(|key| key.presence == Presence::Required).map(|key| key.name).collect();
    let mut table = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn property(key: &KeySpec, defaults: &Value) -> Value {
    // The default of a pool's key is the top level's value.
    let inherited = defaults.is_null();
    let default = &defaults[key.name];
    let mut property = match &key.value {
        ValueType::Text(text) => string(pattern(*text)),
        ValueType::TextList(text) => json!({"type": "array", "items": string(pattern(*text))}),
        ValueType::TextTable => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        ValueType::Duration { .. } => string(DURATION),
        ValueType::Size(_) => string(SIZE),
        ValueType::Percent => string(PERCENT),
        ValueType::Integer(range) => {
            or_reference(&json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}))
        }
        ValueType::Number(range) => {
            or_reference(&json!({"type": "number", "minimum": range.start(), "maximum": range.end()}))
        }
        ValueType::Boolean => or_reference(&json!({"type": "boolean"})),
        ValueType::BooleanOrText(text) => json!({"anyOf": [{"type": "boolean"}, string(pattern(*text))]}),
        ValueType::Choice(words) => json!({"type": "string", "anyOf": [{"enum": words}, {"pattern": REFERENCE}]}),
        ValueType::Table(keys) => table(keys, default),
        ValueType::TableOrFalse(keys) => {
            json!({"anyOf": [table(keys, default), {"const": false}, {"type": "string", "pattern": REFERENCE}]})
        }
        ValueType::TableOrBoolean(keys) => {
            json!({"anyOf": [table(keys, default), {"type": "boolean"}, {"type": "string", "pattern": REFERENCE}]})
        }
        // Every table of an array has the same defaults.
        ValueType::TableArray(keys) => json!({"type": "array", "items": table(keys, &default[0])}),
        ValueType::NamedTables(keys) => json!({
            "type": "object",
            "propertyNames": {"pattern": format!("^{NAME}$")},
            "additionalProperties": table(keys, &Value::Null),
        }),
    };
    property["description"] = json!(key.about);
    if key.presence == Presence::Defaulted && !inherited {
        // The file writes "none" as an empty string.
        property["default"] = if default.is_null() { json!("") } else { default.clone() };
    }
    property
}

/// A reference to an environment variable can stand for any text.
const REFERENCE: &str = r"\$\{";
const NAME: &str = "[A-Za-z0-9._-]{1,128}";
const DURATION: &str = r"\s*(0|([0-9]+(\.[0-9]+)?\s*[A-Za-zµ]+\s*)+)\s*";
const SIZE: &str = r"\s*(0+|[0-9]+\s*([KkMmGg][Ii]?)?[Bb])\s*";
const PERCENT: &str = r"\s*[0-9.]+\s*%\s*";

/// A value, or a string that takes it from the environment.
fn or_reference(value: &Value) -> Value {
    json!({"anyOf": [value, {"type": "string", "pattern": REFERENCE}]})
}

fn string(pattern: &str) -> Value {
    json!({"type": "string", "pattern": format!("^({pattern})$|{REFERENCE}")})
}

/// The pattern of a string; it accepts everything that `values.rs` does.
fn pattern(text: TextFormat) -> &'static str {
    match text {
        TextFormat::Label | TextFormat::Filter | TextFormat::Files => r"[\s\S]*\S[\s\S]*",
        TextFormat::Name => NAME,
        TextFormat::Address => r"[^\s/]+:[0-9]{1,5}|unix:.*[^/]",
        TextFormat::Host | TextFormat::HostPattern => r"[^\s/]+",
        TextFormat::Path => r"/\S*",
        TextFormat::OptionalPath => r"(/\S*)?",
        TextFormat::Statuses => {
            r"\s*[1-5][0-9]{2}\s*(-\s*[1-5][0-9]{2}\s*)?(,\s*[1-5][0-9]{2}\s*(-\s*[1-5][0-9]{2}\s*)?)*"
        }
        TextFormat::Cookie => r"[^\s=;,]+",
        TextFormat::Url => r"(http://\S+)?",
        TextFormat::HttpsUrl => r"https://\S+",
        TextFormat::Email => r"([^\s@]+@[^\s@]+)?",
        TextFormat::Network => r"[0-9a-fA-F:.]+(/[0-9]{1,3})?",
        TextFormat::Directory | TextFormat::OptionalText | TextFormat::OptionalFile => r"[\s\S]*",
        TextFormat::OptionalHost => r"[^\s/]*",
        TextFormat::Protocol => "h2|http/1\\.1",
        TextFormat::HttpsRedirect => "(https(:[0-9]{1,5})?)?",
        TextFormat::Mode => "[0-7]{3,4}",
        TextFormat::Authority => r"[^\s/]*",
        TextFormat::OptionalDuration => r"(\s*(0|([0-9]+(\.[0-9]+)?\s*[A-Za-zµ]+\s*)+)\s*)?",
        TextFormat::HeaderName => r"[^\s:]+",
    }
}
