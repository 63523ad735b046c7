//! The responses of the admin address agree with its OpenAPI document, for any values of the parameters in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use http::header::CONTENT_TYPE;
use lb::live::reloads::{Outcome, Reload};
use lb::live::server::Check;
use serde_json::{Value, json};

mod support;
use support::ask::{ask, get, mixed, ok};
use support::{Fixture, percent_encoded};

/// Requests to a path with parameters, and to one without.
const ROUNDS: (usize, usize) = (300, 50);

/// A state in which every property of a response is present somewhere.
fn fixture() -> Fixture {
    let mut fixture = mixed();
    fixture.server("server2").set_memory(Some(1));
    fixture.server("server2").set_last_check(Check {
        at: SystemTime::now(),
        took: Duration::ZERO,
        error: None,
        refused: false,
        hint: None,
    });
    fixture.eject("server2", "a request failed: no response in time");
    for generation in 1..=3 {
        let reload = Reload {
            generation,
            hash: "c0ffee".into(),
            outcome: Outcome::Rejected,
            at: SystemTime::now(),
            took: Duration::from_micros(1500),
            changes: vec!["server default/server3: weight 6 -> 2".into()],
            problems: Vec::new(),
        };
        fixture.state.reloads().add(Arc::new(reload), 9);
    }
    fixture
}

#[test]
fn responses_conform_to_the_openapi_document() {
    let fixture = fixture();
    let document = ok(&fixture, "/api/openapi.json");
    let mut checked = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let schema = &item["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        let query = if path == "/api/servers" || path == "/api/reloads" { "?limit=1" } else { "" };
        let path = path.replace("{name}", "server2");
        conforms(&document, schema, &ok(&fixture, &format!("{path}{query}")), &path);
        checked.insert(path);
    }
    assert_eq!(checked.len(), 14, "{checked:?}");
    let (_, problem) = get(&fixture, "/api/servers?status=x");
    conforms(&document, &document["components"]["schemas"]["Problem"], &problem, "problem");
}

/// Checks types, enumerations, and that every required property is present and every present one described.
fn conforms(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).expect("a definition");
        return conforms(document, target, value, place);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    let fits = |allowed: &Value| allowed.is_null() || allowed == kind || (allowed == "number" && kind == "integer");
    assert!(kinds.iter().any(fits), "{place}: {value} is not of {}", schema["type"]);
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{place}: {value}");
    }
    if let (Some(members), Some(described)) = (value.as_object(), schema["properties"].as_object()) {
        for required in schema["required"].as_array().into_iter().flatten() {
            assert!(members.contains_key(required.as_str().expect("a name")), "{place}: no {required} in {value}");
        }
        for (name, value) in members {
            let schema = described.get(name).unwrap_or_else(|| panic!("{place}: {name} is not described"));
            conforms(document, schema, value, &format!("{place}.{name}"));
        }
    }
    for value in value.as_array().into_iter().flatten().filter(|_| !schema["items"].is_null()) {
        conforms(document, &schema["items"], value, place);
    }
}

/// A parameter's value as it stands in a request, and decoded; `None` if it is not percent-encoded UTF-8.
type Given = (String, Option<String>);

/// Values for any parameter, whether they fit or not: of each type, empty, huge, encoded in other ways, and not text.
fn values() -> Vec<Given> {
    let plain = |text: &str| (percent_encoded(text), Some(text.to_owned()));
    let mut values: Vec<Given> =
        ["", "true", "false", "True", "1", "0", "7", "-1", "1.5", "0x10", "1e3", "+5", " 1", "٣"]
            .iter()
            .chain(&[
                "default",
                "spare",
                "server1",
                "server2",
                "nope",
                "default/server1/127.0.0.1:8081",
                "a/b",
                "..",
                "*",
            ])
            .chain(&[
                "up",
                "down",
                "draining",
                "disabled",
                "checking",
                "UP",
                "\0",
                "\n",
                "<b>",
                "%",
                "&x=1",
                "é",
                "18446744073709551615",
                "18446744073709551616",
            ])
            .map(|text| plain(text))
            .collect();
    values.extend([plain(&"9".repeat(400)), plain(&"x".repeat(20_000)), ("a+b".to_owned(), Some("a b".to_owned()))]);
    for raw in ["%", "%2", "%zz", "%ff", "%c3", "%ed%a0%80", "ok%ff"] {
        values.push((raw.to_owned(), None));
    }
    values
}

/// Whether a value is one that the document allows for a parameter. `None` if that depends on the state.
fn is_allowed(parameter: &Value, schema: &Value, value: &str) -> Option<bool> {
    if value.is_empty() && parameter["allowEmptyValue"] == true {
        return Some(true);
    }
    if let Some(allowed) = schema["enum"].as_array() {
        return Some(allowed.iter().any(|one| one == value));
    }
    match schema["type"].as_str().expect("a type") {
        "boolean" => Some(value == "true" || value == "false"),
        "integer" => {
            let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let is_zero = value.bytes().all(|byte| byte == b'0');
            Some(is_number && !(is_zero && schema["minimum"] == 1))
        }
        "string" => None,
        other => panic!("no values for {other}"),
    }
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let Some(reference) = value["$ref"].as_str() else { return value };
    document.pointer(reference.trim_start_matches('#')).expect("a definition")
}

/// A random request for a path of the document: its target, and whether it must get 400 (`Some(true)`), must not
/// (`Some(false)`), or may.
fn request(
    (document, values): (&Value, &[Given]),
    (path, operation): (&str, &Value),
    rng: &mut Rng,
) -> (String, Option<bool>) {
    let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
    let ignores_unknown = operation["x-unknown-parameters"] == "ignored";
    let (mut target, mut verdicts) = (path.to_owned(), Vec::new());
    let mut query: Vec<String> = Vec::new();
    for parameter in parameters {
        let (name, schema) = (parameter["name"].as_str().expect("a name"), resolved(document, &parameter["schema"]));
        let form = rng.u8(..6);
        let mut given = || {
            let (raw, decoded) = values[rng.usize(..values.len())].clone();
            let verdict = match &decoded {
                Some(value) => is_allowed(parameter, schema, value),
                // Replaced by another text where unknown parameters are ignored, and that is not allowed either.
                None => Some(false),
            };
            (raw, verdict)
        };
        match parameter["in"].as_str() {
            Some("path") => {
                let (raw, verdict) = given();
                target = target.replace(&format!("{{{name}}}"), &raw);
                verdicts.push(verdict);
            }
            Some("query") => {
                let (raw, verdict) = given();
                match form {
                    0..=2 => {}
                    3 => {
                        let (again, _) = given();
                        query.extend([format!("{name}={raw}"), format!("{name}={again}")]);
                        verdicts.push(Some(false));
                    }
                    4 if raw.is_empty() => {
                        query.push(name.to_owned());
                        verdicts.push(verdict);
                    }
                    _ => {
                        // The first letter of the name is encoded.
                        let encoded = format!("%{:02x}{}", name.as_bytes()[0], &name[1..]);
                        query.push(format!("{}={raw}", if rng.bool() { name } else { &encoded }));
                        verdicts.push(verdict);
                    }
                }
            }
            _ => {}
        }
    }
    if rng.u8(..4) == 0 {
        let unknown = ["x=1", "=", "pools=default", "ANY=true", "%ff=1", "x=%", "any%00=1", "é"];
        query.push(percent_tolerant(unknown[rng.usize(..unknown.len())]));
        verdicts.push(if ignores_unknown { Some(true) } else { Some(false) });
    }
    if !query.is_empty() {
        rng.shuffle(&mut query);
        target += &format!("?{}", query.join("&"));
    }
    let must_fail = if verdicts.contains(&Some(false)) {
        Some(true)
    } else if verdicts.contains(&None) {
        None
    } else {
        Some(false)
    };
    (target, must_fail)
}

/// Encodes what a request target cannot have.
fn percent_tolerant(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c.to_string() } else { percent_encoded(&c.to_string()) }).collect()
}

#[test]
fn any_values_of_the_parameters_get_a_response_that_the_document_describes() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let mut rng = Rng::with_seed(seed);
    let fixture = fixture();
    let document = ok(&fixture, "/api/openapi.json");
    // By path, the statuses that occurred.
    let mut seen: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    let (values, mut validators) = (values(), BTreeMap::new());
    for (path, item) in document["paths"].as_object().expect("paths") {
        let rounds = if item["get"]["parameters"].is_null() { ROUNDS.1 } else { ROUNDS.0 };
        for _ in 0..rounds {
            let (target, must_fail) = request((&document, &values), (path, &item["get"]), &mut rng);
            // An empty name is another path.
            if target.split('?').next().is_some_and(|path| path.ends_with('/') && path != "/") {
                continue;
            }
            let shown: String = target.chars().take(300).collect();
            let place = format!("SEED={seed} {shown}");
            let response = ask(&fixture, "GET", &target);
            let status = response.status().as_u16();
            seen.entry(path).or_default().insert(status);
            let described = &item["get"]["responses"][status.to_string()];
            assert!(!described.is_null(), "{place}: {status} is not described");
            if let Some(must_fail) = must_fail {
                assert_eq!(status == 400, must_fail, "{place}: {status} {}", response.body());
            }
            let contents = &resolved(&document, described)["content"];
            let kind = response.headers()[CONTENT_TYPE].to_str().expect("text");
            let schema = &contents[kind.split(';').next().expect("a type")]["schema"];
            assert!(schema.is_object(), "{place}: {kind} is not described for {status}");
            if kind.ends_with("json") {
                let body: Value = serde_json::from_str(response.body()).expect("JSON");
                conforms(&document, schema, &body, &place);
                let validator = validators.entry((path, status)).or_insert_with(|| {
                    let whole = json!({ "allOf": [schema], "components": document["components"] });
                    jsonschema::draft202012::options().build(&whole).expect("a schema")
                });
                assert!(validator.is_valid(&body), "{place}: {body}");
            }
        }
    }
    for (path, statuses) in &seen {
        let is_strict = document["paths"][*path]["get"]["x-unknown-parameters"].is_null();
        assert!(statuses.contains(&400) || !is_strict, "{path}: {seen:?}");
        assert!(statuses.iter().any(|status| *status != 400), "{path}: {seen:?}");
    }
    assert!(seen["/api/servers/{name}"].contains(&404), "{seen:?}");
}
