//! The JSON Schema of `lb.toml`, for editors: made of the keys and the defaults, so that it says nothing else.

use serde_json::{Map, Value, json};

use crate::config::file::keys::{self, Key, Kind, Text, Without};
use crate::config::file::parse;
use crate::config::source::SourceFile;

/// The name of the file that editors look for, as the first line of a configuration tells.
pub const FILE: &str = "lb.schema.json";

/// A configuration in which everything that has a default has it.
const BARE: &str = "balance.sticky = {}\n[[listener]]\naddress = \"127.0.0.1:1\"\n\
    [[server]]\nname = \"a\"\naddress = \"a:1\"\n[[route]]\npool = \"default\"\n";

/// The schema as text, which ends with a newline.
#[must_use]
pub fn text() -> String {
    // It is made of plain values under plain keys: it always serializes.
    serde_json::to_string_pretty(&schema()).unwrap_or_default() + "\n"
}

/// The schema. Nothing is told by reference: that is what editors of TOML understand best. An
/// included file is a part of the whole, so no table is required.
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

/// Every default, in the tables that the file has them in.
fn defaults() -> Value {
    let parsed = parse(&[SourceFile::new("", BARE)], &|_| None).ok();
    let mut all = parsed.and_then(|config| serde_json::to_value(config).ok()).unwrap_or_default();
    // What a pool takes from the top level stands there in the file.
    let pool = all["pool"][0].take();
    for key in ["balance", "health", "retry", "server"] {
        all[key] = pool[key].clone();
    }
    all["include"] = json!([]);
    all
}

fn table(keys: &[Key], defaults: &Value) -> Value {
    let known = keys.iter().filter(|key| !matches!(key.kind, Kind::Refused));
    let properties: Map<String, Value> = known.map(|key| (key.name.to_owned(), property(key, defaults))).collect();
    let needed: Vec<&str> = keys.iter().filter(|key| key.without == Without::Nothing).map(|key| key.name).collect();
    let mut table = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !needed.is_empty() {
        table["required"] = json!(needed);
    }
    table
}

fn property(key: &Key, defaults: &Value) -> Value {
    // What a pool leaves out is the top level's.
    let inherited = defaults.is_null();
    let default = &defaults[key.name];
    let mut property = match &key.kind {
        Kind::Text(text) => string(pattern(*text)),
        Kind::Texts(text) => json!({"type": "array", "items": string(pattern(*text))}),
        Kind::Duration { .. } => string(DURATION),
        Kind::Size(_) => string(SIZE),
        Kind::Percent => string(PERCENT),
        Kind::Integer(range) => json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}),
        Kind::Number(range) => json!({"type": "number", "minimum": range.start(), "maximum": range.end()}),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Choice(words) => json!({"type": "string", "anyOf": [{"enum": words}, {"pattern": REFERENCE}]}),
        Kind::Table(keys) => table(keys, default),
        Kind::Switch(keys) => json!({"anyOf": [table(keys, default), {"const": false}]}),
        // What one of several may leave out is the same in each.
        Kind::Tables(keys) => json!({"type": "array", "items": table(keys, &default[0])}),
        Kind::Named(keys) => json!({
            "type": "object",
            "propertyNames": {"pattern": format!("^{NAME}$")},
            "additionalProperties": table(keys, &Value::Null),
        }),
        Kind::Refused => json!(false),
    };
    property["description"] = json!(key.about);
    if key.without == Without::Default && !inherited {
        // Nothing at all is written `""`.
        property["default"] = if default.is_null() { json!("") } else { default.clone() };
    }
    property
}

/// What is filled in from the environment may be anything.
const REFERENCE: &str = r"\$\{";
const NAME: &str = "[A-Za-z0-9._-]{1,128}";
const DURATION: &str = r"\s*(0|([0-9]+(\.[0-9]+)?\s*[A-Za-zµ]+\s*)+)\s*";
const SIZE: &str = r"\s*(0+|[0-9]+\s*([KkMmGg][Ii]?)?[Bb])\s*";
const PERCENT: &str = r"\s*[0-9.]+\s*%\s*";

fn string(pattern: &str) -> Value {
    json!({"type": "string", "pattern": format!("^({pattern})$|{REFERENCE}")})
}

/// What a text looks like: never narrower than what `values.rs` takes.
fn pattern(text: Text) -> &'static str {
    match text {
        Text::Label | Text::Filter | Text::Files => r"[\s\S]*\S[\s\S]*",
        Text::Name => NAME,
        Text::Address => r"[^\s/]+:[0-9]{1,5}",
        Text::Host | Text::HostPattern => r"[^\s/]+",
        Text::Path => r"/\S*",
        Text::OptionalPath => r"(/\S*)?",
        Text::Statuses => r"\s*[1-5][0-9]{2}\s*(-\s*[1-5][0-9]{2}\s*)?(,\s*[1-5][0-9]{2}\s*(-\s*[1-5][0-9]{2}\s*)?)*",
        Text::Cookie => r"[^\s=;,]+",
        Text::Url => r"(http://\S+)?",
        Text::Network => r"[0-9a-fA-F:.]+(/[0-9]{1,3})?",
        Text::Directory => r"[\s\S]*",
    }
}
