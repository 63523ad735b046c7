//! `lb run`: starts, serves until a signal, and returns the exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::BAD_INPUT;
use super::fragment;
use super::output::{fail, note, print_problems, within};
use crate::control::gateway::{Gateway, Signal, StartError};
use crate::control::reload::reader::env;
use crate::control::reload::source::Source;
use crate::telemetry::logs::in_colour;
use crate::telemetry::panics;

/// How long the process waits for blocking calls, such as name lookups, before it exits.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(100);
/// How long the process waits for standard error to take why it could not start.
const PRINT: Duration = Duration::from_secs(3);

/// Serves the configuration at `path` until a signal stops it.
#[must_use]
pub fn run(path: &Path) -> ExitCode {
    on_control_plane(path, async |signals| serve(path, signals, || ()).await)
}

/// Starts from the configuration at `path`, calls `started`, and serves until a signal has stopped and drained it.
pub(super) async fn serve(
    path: &Path,
    signals: mpsc::Receiver<Signal>,
    started: impl FnOnce(),
) -> Result<(), StartError> {
    // Reads and validates the file, binds all addresses and starts the workers. If it fails, no client was accepted.
    let gateway = Gateway::start(path, io::stdout()).await?;
    panics::install_hook(Arc::clone(gateway.state()));
    started();
    // Serves, reloads and checks servers. The first stop drains for at most `timeouts.drain`, the second aborts.
    gateway.run(signals).await;
    Ok(())
}

/// The signals that the gateway acts on: SIGTERM and SIGINT stop it, SIGHUP re-reads the file, SIGUSR1 opens the files of
/// logs again.
fn signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(16);
    // A file that has reached the process's limit (RLIMIT_FSIZE) is like a full disk, and no reason to end.
    drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
    let actions = [
        (SignalKind::terminate(), Signal::Stop),
        (SignalKind::interrupt(), Signal::Stop),
        (SignalKind::hangup(), Signal::Reload),
        (SignalKind::user_defined1(), Signal::ReopenLogs),
    ];
    for (kind, action) in actions {
        let (mut signal, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move { while signal.recv().await.is_some() && sender.send(action).await.is_ok() {} });
    }
    Ok(receiver)
}

/// Runs a command for the configuration at `path` on this thread, with the control plane's runtime. It gets the signals, which
/// are caught before it begins, so that none is missed. Returns the exit code: 0, or 1 after printing the error.
pub(super) fn on_control_plane(
    path: &Path,
    command: impl AsyncFnOnce(mpsc::Receiver<Signal>) -> Result<(), StartError>,
) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&StartError::System(error)),
    };
    let result = runtime.block_on(async { command(signals()?).await });
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let part = match error {
                StartError::Config(_) => fragment::note(path, &Source::new(path).read(&env)),
                _ => None,
            };
            // Standard error may be a pipe that nobody reads: whoever started the process should see it end.
            within(PRINT, move || {
                if let StartError::Config(problems) | StartError::Bind(_, problems) = &error {
                    // If standard error is closed, nobody is reading.
                    let _ = print_problems(problems, in_colour(&io::stderr()), &mut io::stderr().lock());
                }
                if let Some(part) = part {
                    note(&part);
                }
                note(&error);
            });
            ExitCode::from(BAD_INPUT)
        }
    }
}
