//! Output that all commands share: options, JSON, problems, and lines on standard output and standard error.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::BAD_INPUT;
use crate::config::problem::Problem;

/// The form in which a command prints its result.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutputOptions {
    pub(super) json: bool,
    pub(super) colored: bool,
}

/// Writes indented JSON, because people read it too.
pub(super) fn print_json(value: &serde_json::Value, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Writes each problem with its line of the file and a blank line after it.
pub(super) fn print_problems(problems: &[Problem], colored: bool, out: &mut dyn Write) -> io::Result<()> {
    problems.iter().try_for_each(|problem| writeln!(out, "{}\n", problem.to_text(colored)))
}

/// `3 servers`
pub(super) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Prints an error on standard error and returns the exit code for it.
pub(super) fn fail(error: &impl Display) -> ExitCode {
    note(error);
    ExitCode::from(BAD_INPUT)
}

/// Prints a line on standard error.
pub(super) fn note(message: &impl Display) {
    // If standard error is closed, nobody is reading.
    let _ = writeln!(io::stderr(), "lb: {message}");
}

/// Calls `print` on a thread of its own, and waits for at most `limit`, because whoever should read may not.
pub(super) fn within(limit: Duration, print: impl FnOnce() + Send + 'static) {
    let (end, ended) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("print".to_owned()).spawn(move || {
        print();
        // Fails when the limit has passed.
        let _ = end.try_send(());
    });
    if thread.is_ok() {
        // After that, there is nobody to tell.
        let _ = ended.recv_timeout(limit);
    }
}

/// Prints a line on standard output.
pub(super) fn print(line: &str) {
    // If standard output is closed, nobody is reading.
    let _ = writeln!(io::stdout(), "{line}");
}
