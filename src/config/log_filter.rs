//! The filter of the process log: levels, and targets with levels. In `tracing`'s own syntax any word is a target, so that
//! a misspelled one would silence the log.

use crate::config::problem::Reason;
use crate::config::suggest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The names of levels elsewhere.
const OTHER_LEVELS: [(&str, &str); 17] = [
    ("warning", "warn"),
    ("err", "error"),
    ("emerg", "error"),
    ("alert", "error"),
    ("crit", "error"),
    ("critical", "error"),
    ("fatal", "error"),
    ("severe", "error"),
    ("panic", "error"),
    ("notice", "info"),
    ("information", "info"),
    ("verbose", "debug"),
    ("fine", "debug"),
    ("all", "trace"),
    ("none", "off"),
    ("quiet", "off"),
    ("silent", "off"),
];

/// The modules of `lb` that log, and the names that they log under.
pub const TARGETS: [&str; 40] = [
    "lb",
    "lb::admin",
    "lb::admin::feed",
    "lb::control::acme::challenge",
    "lb::control::acme::manager",
    "lb::control::gateway",
    "lb::control::gateway::admin_server",
    "lb::control::gateway::apply",
    "lb::control::gateway::certificates",
    "lb::control::gateway::health",
    "lb::control::gateway::listeners",
    "lb::control::gateway::record",
    "lb::control::gateway::start",
    "lb::control::registry",
    "lb::control::reload::last_good::saver",
    "lb::control::reload::reader",
    "lb::control::reload::source",
    "lb::control::resolver",
    "lb::control::upstream_tls::roots",
    "lb::health",
    "lb::http2::client",
    "lb::live::server::address",
    "lb::proxy::exchange",
    "lb::proxy::upload",
    "lb::proxy::upstream_pool::connect",
    "lb::proxy::upstream_pool::secure",
    "lb::telemetry::access_log::file",
    "lb::telemetry::access_log::output",
    "lb::telemetry::logs",
    "lb::telemetry::metrics",
    "lb::telemetry::panics",
    "lb::telemetry::trace::exporter_queue",
    "lb::worker",
    "lb::worker::client_limit",
    "lb::worker::connection",
    "lb::worker::connection::open",
    "lb::worker::fd_limit",
    "lb::worker::http2",
    "lb::worker::proxy_header",
    "lb::worker::socket::file",
];

/// Libraries that log.
const LIBRARIES: [&str; 9] = [
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "notify",
    "opentelemetry",
    "opentelemetry_http",
    "opentelemetry_sdk",
    "opentelemetry_zipkin",
];

/// One part of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogDirective<'a> {
    /// `None` for all targets that no other part names.
    pub target: Option<&'a str>,
    pub level: &'a str,
}

impl LogDirective<'_> {
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.level == "off"
    }

    /// Whether it applies to events of `target`.
    #[must_use]
    pub fn covers(&self, target: &str) -> bool {
        self.target.is_none_or(|own| is_within(target, own))
    }
}

/// The parts of a filter that `parse` returned.
pub fn directives(filter: &str) -> impl Iterator<Item = LogDirective<'_>> {
    filter.split(',').map(|part| match part.split_once('=') {
        Some((target, level)) => LogDirective { target: Some(target), level },
        None if LEVELS.contains(&part) => LogDirective { target: None, level: part },
        None => LogDirective { target: Some(part), level: "trace" },
    })
}

/// Parses a filter and returns it in one spelling: without white space, with levels as words in lower case.
pub(crate) fn parse(text: &str) -> Result<String, Reason> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parts = parts.map(directive).collect::<Result<Vec<_>, _>>()?;
    let filter = parts.join(",");
    if parts.is_empty() {
        return Err(Reason::new(format!("`{text}` is not a log level")).hint(EXAMPLES));
    }
    let concerns_lb = directives(&filter).any(|part| part.target.is_none_or(|target| is_within(target, "lb")));
    match concerns_lb {
        true => Ok(filter),
        // A library's name alone turns everything else off.
        false => Err(Reason::new(format!("`{text}` turns off the log of lb itself"))
            .hint(format!("add a level for everything else: `info,{filter}`"))),
    }
}

const EXAMPLES: &str = "write `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,lb::health=debug`";

fn directive(text: &str) -> Result<String, Reason> {
    if text.contains(['[', '{', ']', '}']) {
        return Err(Reason::new(format!("`{text}` filters by spans or fields, and lb's log has no spans"))
            .hint("name a target and a level, for example `lb::health=debug`"));
    }
    match text.split_once('=') {
        Some((target, word)) => {
            let (target, word) = (target.trim(), word.trim());
            if !is_known(target) {
                return Err(unknown_target(target));
            }
            let level = level(word).ok_or_else(|| unknown_level(word))?;
            Ok(format!("{target}={level}"))
        }
        None => match level(text) {
            Some(level) => Ok(level.to_owned()),
            None if is_known(text) => Ok(text.to_owned()),
            None if text.contains("::") => Err(unknown_target(text)),
            None => Err(unknown_level(text)),
        },
    }
}

/// A level, by its name or, as in `tracing`, by its number.
fn level(word: &str) -> Option<&'static str> {
    let number = || word.parse::<usize>().ok().and_then(|number| LEVELS.get(number));
    LEVELS.iter().find(|level| level.eq_ignore_ascii_case(word)).or_else(number).copied()
}

/// Whether a target names a module that logs, or one that contains such a module.
fn is_known(target: &str) -> bool {
    TARGETS.iter().any(|known| is_within(known, target)) || LIBRARIES.iter().any(|library| is_within(target, library))
}

/// Whether a target is `outer` or in it.
fn is_within(target: &str, outer: &str) -> bool {
    target.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn unknown_level(word: &str) -> Reason {
    let reason = Reason::new(format!("`{word}` is not a log level"));
    let other = OTHER_LEVELS.iter().find(|(other, _)| other.eq_ignore_ascii_case(word)).map(|(_, level)| *level);
    let closest = other.or_else(|| suggest::closest(word, LEVELS)).map(str::to_owned);
    match closest.or_else(|| similar_target(word)) {
        Some(closest) => reason.hint(format!("did you mean `{closest}`?")),
        None => reason.hint(EXAMPLES),
    }
}

fn unknown_target(target: &str) -> Reason {
    let reason = Reason::new(format!("no part of lb logs as `{target}`"));
    match similar_target(target) {
        Some(similar) => reason.hint(format!("did you mean `{similar}`?")),
        None => reason.hint("`lb` is all of it; each line of the log names its target after the level"),
    }
}

/// The target that a misspelled one is closest to, or that ends with it.
fn similar_target(target: &str) -> Option<String> {
    // Every module that contains one that logs is a target too.
    let outer = |known: &'static str| known.match_indices("::").map(move |(at, _)| &known[..at]);
    let known = || TARGETS.into_iter().chain(TARGETS.into_iter().flat_map(outer)).chain(LIBRARIES);
    let by_end = known().filter(|known| known.rsplit("::").next() == Some(target)).min_by_key(|known| known.len());
    by_end.or_else(|| suggest::closest(target, known())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_one_spelling() {
        for (text, filter) in [
            ("info", "info"),
            ("INFO", "info"),
            (" Warn ", "warn"),
            ("off", "off"),
            ("3", "info"),
            ("0", "off"),
            ("info,", "info"),
            (",info,,", "info"),
            ("info, lb::health = DEBUG", "info,lb::health=debug"),
            ("lb=5", "lb=trace"),
            ("lb", "lb"),
            ("off,lb::control=info", "off,lb::control=info"),
            ("warn,lb::worker::client_limit=trace", "warn,lb::worker::client_limit=trace"),
            ("info,notify=debug", "info,notify=debug"),
            ("info,notify::inotify=debug", "info,notify::inotify=debug"),
            ("off,notify=debug", "off,notify=debug"),
            ("lb::health", "lb::health"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(filter), "{text}");
            assert_eq!(parse(filter).as_deref(), Ok(filter), "{text}");
        }
    }

    #[test]
    fn a_word_that_is_neither_a_level_nor_a_target_is_an_error() {
        for (text, message, hint) in [
            ("warning", "`warning` is not a log level", "did you mean `warn`?"),
            ("WARNING", "`WARNING` is not a log level", "did you mean `warn`?"),
            ("err", "`err` is not a log level", "did you mean `error`?"),
            ("notice", "is not a log level", "did you mean `info`?"),
            ("verbose", "is not a log level", "did you mean `debug`?"),
            ("critical", "is not a log level", "did you mean `error`?"),
            ("none", "is not a log level", "did you mean `off`?"),
            ("inof", "is not a log level", "did you mean `info`?"),
            ("7", "is not a log level", "write `error`, `warn`"),
            ("-1", "is not a log level", "write `error`, `warn`"),
            ("", "`` is not a log level", "write `error`, `warn`"),
            (" , ", "is not a log level", "write `error`, `warn`"),
            ("x,info", "`x` is not a log level", "write `error`, `warn`"),
            ("health", "`health` is not a log level", "did you mean `lb::health`?"),
            ("info,lb::helth=debug", "no part of lb logs as `lb::helth`", "did you mean `lb::health`?"),
            ("lb::heal=debug", "no part of lb logs as `lb::heal`", "did you mean `lb::health`?"),
            ("lb::helth", "no part of lb logs as `lb::helth`", "did you mean `lb::health`?"),
            ("LB=debug", "no part of lb logs as `LB`", "did you mean `lb`?"),
            ("nginx::core=debug", "no part of lb logs as `nginx::core`", "`lb` is all of it"),
            ("notfy=warn", "no part of lb logs as `notfy`", "did you mean `notify`?"),
            ("=debug", "no part of lb logs as ``", "`lb` is all of it"),
            ("lb=verbose", "`verbose` is not a log level", "did you mean `debug`?"),
            ("lb=", "`` is not a log level", "write `error`, `warn`"),
            ("lb==debug", "`=debug` is not a log level", "did you mean `debug`?"),
            ("[request]=debug", "lb's log has no spans", "name a target"),
            ("lb[request{id=.*}]=debug", "lb's log has no spans", "name a target"),
            ("notify=debug", "`notify=debug` turns off the log of lb itself", "`info,notify=debug`"),
            ("hyper, notify=off", "turns off the log of lb itself", "`info,hyper,notify=off`"),
            ("info;lb=debug", "no part of lb logs as `info;lb`", "`lb` is all of it"),
            ("lb.*=debug", "no part of lb logs as `lb.*`", "`lb` is all of it"),
        ] {
            let reason = parse(text).expect_err(text);
            assert!(reason.message.contains(message), "{text}: {reason:?}");
            assert!(reason.hint.as_ref().is_some_and(|shown| shown.contains(hint)), "{text}: {reason:?}");
        }
    }

    #[test]
    fn directives_are_those_of_the_filter() {
        let of = |target, level| LogDirective { target, level };
        let found: Vec<_> = directives("info,lb::health=debug,lb::worker").collect();
        assert_eq!(found, [of(None, "info"), of(Some("lb::health"), "debug"), of(Some("lb::worker"), "trace")]);
        assert!(found[0].covers("lb::control") && found[1].covers("lb::health::x") && !found[1].covers("lb::healthy"));
    }
}
