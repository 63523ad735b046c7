//! The process log, on standard error. Reloads change its level and format.
//!
//! Nobody who logs waits for standard error: `log_writer` has a thread of its own for it.

use std::borrow::Cow;
use std::env;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::{self as lines, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::line_output::LostLines;
use super::log_writer::{self, LogQueue, ToQueue};
use crate::config::{LogConfig, LogFormat, log_filter};

/// Starts the process log. If the process already has one, as in tests, that one stays and the
/// returned control has no effect.
///
/// # Errors
/// If the system cannot create the thread that writes it.
pub fn init(log: &LogConfig) -> io::Result<LogControl> {
    let queue = Arc::new(LogQueue::default());
    let (subscriber, mut control) = build(log, ToQueue(Arc::clone(&queue)), in_colour(&io::stderr()));
    if subscriber.try_init().is_ok() {
        log_writer::start(Arc::clone(&queue), io::stderr(), Arc::clone(&control.json))?;
        control.queue = queue;
    }
    Ok(control)
}

/// Whether to write to `out` in colour: on a terminal, unless `NO_COLOR` is set.
#[must_use]
pub fn in_colour(out: &impl IsTerminal) -> bool {
    out.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Changes the level and format of the running process log.
#[derive(Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    json: Arc<AtomicBool>,
    queue: Arc<LogQueue>,
}

/// Waits for the lines so far to be written.
#[derive(Debug, Clone)]
pub struct LogFlush(Arc<LogQueue>);

impl LogFlush {
    /// Waits up to `limit`. Returns whether all lines are written.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        self.0.flush(limit)
    }
}

impl LogControl {
    /// Returns the count of lost lines, which can be read at any time from any thread.
    #[must_use]
    pub fn losses(&self) -> LostLines {
        self.queue.losses()
    }

    /// Returns a way to wait for the lines so far, on any thread.
    #[must_use]
    pub fn flush(&self) -> LogFlush {
        LogFlush(Arc::clone(&self.queue))
    }

    /// Applies level and format. A level that does not parse, which the configuration rules out, is
    /// logged and leaves the level as it was.
    pub fn apply(&self, log: &LogConfig) {
        self.json.store(log.format == LogFormat::Json, Relaxed);
        match EnvFilter::try_new(with_rejections(with_library_limits(&log.level))) {
            // Fails only if the process log is not this one.
            Ok(filter) => drop(self.filter.reload(filter)),
            Err(error) => tracing::error!(level = log.level, %error, "log level unchanged; the new one does not parse"),
        }
    }
}

impl Drop for LogControl {
    /// Waits a moment for the last lines, for an error that follows them on standard error.
    fn drop(&mut self) {
        const MOMENT: Duration = Duration::from_millis(200);
        self.queue.flush(MOMENT);
    }
}

/// Adds a limit for notify, which at `info` logs each watch that ends with its file, and at `trace` each event: a log
/// beside the configuration would never come to rest. A level that names the library, or asks for `debug`, stays as it is.
fn with_library_limits(level: &str) -> Cow<'_, str> {
    let directives = || level.split(',').map(str::trim);
    let asks_for = |wanted: &str| directives().any(|directive| directive.eq_ignore_ascii_case(wanted));
    if directives().any(|directive| directive.starts_with("notify")) {
        return level.into();
    }
    match (asks_for("info"), asks_for("trace")) {
        (true, _) => format!("{level},notify=error").into(),
        (false, true) => format!("{level},notify=debug").into(),
        (false, false) => level.into(),
    }
}

/// Where rejected edits are logged.
const REJECTIONS: &str = "lb::control::gateway::record";

/// Adds the target of rejected edits, unless the filter shows its errors or turns everything off: nobody who asks for the
/// lines of one target wants to miss that an edit had no effect.
fn with_rejections(level: Cow<'_, str>) -> Cow<'_, str> {
    let most_specific = log_filter::directives(&level)
        .filter(|directive| directive.covers(REJECTIONS))
        .max_by_key(|directive| directive.target.map_or(0, str::len));
    let is_shown = most_specific.is_some_and(|directive| !directive.is_off());
    if is_shown || log_filter::directives(&level).all(|directive| directive.is_off()) {
        return level;
    }
    format!("{level},{REJECTIONS}=error").into()
}

fn build<W>(log: &LogConfig, writer: W, colour: bool) -> (impl Subscriber + Send + Sync + 'static, LogControl)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(EnvFilter::new("info"));
    let json = Arc::new(AtomicBool::new(false));
    let format = SwitchableFormat {
        json: Arc::clone(&json),
        text: Format::default(),
        object: Format::default().json().flatten_event(true).with_current_span(false).with_span_list(false),
    };
    let layer = lines::layer()
        .event_format(format)
        .with_ansi(colour)
        .with_writer(writer)
        // They would go to standard error, which has just failed, and printing them would panic.
        .log_internal_errors(false);
    let control = LogControl { filter: handle, json, queue: Arc::default() };
    control.apply(log);
    (Registry::default().with(filter).with(layer), control)
}

/// Both formats in one layer, because swapping a layer while it runs would lose its spans.
struct SwitchableFormat {
    json: Arc<AtomicBool>,
    text: Format<Full>,
    object: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for SwitchableFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.json.load(Relaxed) {
            self.object.format_event(context, writer, event)
        } else {
            self.text.format_event(context, writer, event)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// An output that can be read.
    #[derive(Clone, Default)]
    struct SharedOutput(Arc<Mutex<Vec<u8>>>);

    impl SharedOutput {
        fn take(&self) -> String {
            let text = std::mem::take(&mut *self.0.lock());
            String::from_utf8(text).expect("UTF-8")
        }
    }

    impl io::Write for SharedOutput {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(level: &str, format: LogFormat) -> LogConfig {
        LogConfig { level: level.to_owned(), format, ..LogConfig::default() }
    }

    fn build_on(
        output: &SharedOutput,
        log: &LogConfig,
        colour: bool,
    ) -> (impl Subscriber + Send + Sync + 'static, LogControl) {
        let output = output.clone();
        build(log, move || output.clone(), colour)
    }

    #[test]
    fn level_and_format_change_while_running() {
        let output = SharedOutput::default();
        let (subscriber, control) = build_on(&output, &log("info", LogFormat::Text), false);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(pool = "default", "server is up");
            tracing::debug!("not yet");
            let line = output.take();
            assert!(line.contains(" INFO ") && line.ends_with("server is up pool=\"default\"\n"), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");

            control.apply(&log("debug", LogFormat::Json));
            tracing::debug!(pool = "a\nb", "now");
            let line: serde_json::Value = serde_json::from_str(&output.take()).expect("JSON");
            assert_eq!(line["level"], "DEBUG");
            assert_eq!(line["message"], "now");
            assert_eq!(line["pool"], "a\nb");

            control.apply(&log("warn,lb::telemetry::logs=error", LogFormat::Text));
            tracing::warn!("too quiet");
            assert_eq!(output.take(), "");
        });
    }

    #[test]
    fn a_library_is_limited_unless_it_is_named() {
        for (level, expected) in [
            ("info", "info,notify=error"),
            ("INFO,lb::health=debug", "INFO,lb::health=debug,notify=error"),
            ("info,notify=debug", "info,notify=debug"),
            ("debug", "debug"),
            ("trace", "trace,notify=debug"),
            ("trace,notify=trace", "trace,notify=trace"),
            ("error", "error"),
            ("off", "off"),
            ("lb=info", "lb=info"),
        ] {
            assert_eq!(with_library_limits(level), expected);
            EnvFilter::try_new(with_library_limits(level)).expect(level);
        }
    }

    #[test]
    fn rejected_edits_are_seen_unless_everything_is_off() {
        for (level, shown) in [
            ("trace", true),
            ("error", true),
            ("lb=error", true),
            ("off", false),
            ("lb=off", false),
            ("off,lb=off", false),
            ("lb::health=debug", true),
            ("notify=error", true),
            ("info,lb=off", true),
            ("info,lb::control=off", true),
            ("info,lb::control::gateway::record=off", true),
            ("off,lb::health=debug", true),
            ("off,lb=error", true),
        ] {
            let output = SharedOutput::default();
            let (subscriber, _control) = build_on(&output, &log(level, LogFormat::Text), false);
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(target: REJECTIONS, "rejected");
            });
            assert_eq!(output.take().contains("rejected"), shown, "{level}");
        }
    }

    #[test]
    fn a_level_that_does_not_parse_is_logged_and_changes_nothing() {
        let output = SharedOutput::default();
        let (subscriber, control) = build_on(&output, &log("info", LogFormat::Text), false);
        tracing::subscriber::with_default(subscriber, || {
            control.apply(&log("lb=loud", LogFormat::Text));
            assert!(output.take().contains("lb=loud"));
            tracing::info!("still here");
            assert!(output.take().contains("still here"));
        });
    }

    #[test]
    fn colour_follows_the_setting() {
        for colour in [true, false] {
            let output = SharedOutput::default();
            let (subscriber, _control) = build_on(&output, &log("info", LogFormat::Text), colour);
            tracing::subscriber::with_default(subscriber, || tracing::info!("hello"));
            assert_eq!(output.take().contains('\x1b'), colour);
        }
    }

    #[test]
    fn starting_twice_is_harmless() {
        let _first = init(&log("off", LogFormat::Text)).expect("a thread");
        init(&log("off", LogFormat::Json)).expect("a log").apply(&log("off", LogFormat::Text));
    }
}
