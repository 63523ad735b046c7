//! `lb run`: starts, serves until a signal, and returns the exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::output::{fail, print_problems};
use crate::control::gateway::{Gateway, Signal, StartError};
use crate::telemetry::logs::in_colour;
use crate::telemetry::panics;

/// How long the process waits for blocking calls, such as name lookups, before it exits.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(100);

/// Serves the configuration at `path` until a signal stops it.
#[must_use]
pub fn run(path: &Path) -> ExitCode {
    on_control_plane(serve(path, || ()))
}

/// Starts from the configuration at `path`, calls `started`, and serves until a signal has stopped and drained it.
pub(super) async fn serve(path: &Path, started: impl FnOnce()) -> Result<(), StartError> {
    // Signals are caught before anything starts, so that none is missed.
    let signals = signals()?;
    // Reads and validates the file, binds all addresses and starts the workers. If it fails, no client was accepted.
    let gateway = Gateway::start(path, io::stdout()).await?;
    panics::install_hook(Arc::clone(gateway.state()));
    started();
    // Serves, reloads and checks servers. The first stop drains for at most `timeouts.drain`, the second aborts.
    gateway.run(signals).await;
    Ok(())
}

/// The signals that the gateway acts on: SIGTERM and SIGINT stop it, SIGHUP re-reads the file.
fn signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(16);
    let actions = [
        (SignalKind::terminate(), Signal::Stop),
        (SignalKind::interrupt(), Signal::Stop),
        (SignalKind::hangup(), Signal::Reload),
    ];
    for (kind, action) in actions {
        let (mut signal, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move { while signal.recv().await.is_some() && sender.send(action).await.is_ok() {} });
    }
    Ok(receiver)
}

/// Runs a command on this thread, with the control plane's runtime. Returns the exit code: 0, or 1 after printing the
/// error.
pub(super) fn on_control_plane(command: impl Future<Output = Result<(), StartError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&StartError::System(error)),
    };
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let StartError::Config(problems) = &error {
                // If standard error is closed, nobody is reading.
                let _ = print_problems(problems, in_colour(&io::stderr()), &mut io::stderr().lock());
            }
            fail(&error)
        }
    }
}
