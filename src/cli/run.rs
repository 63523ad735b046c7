//! `lb run`: serves until a signal says stop.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::check::pictures;
use crate::control::gateway::{Gateway, Signal, StartError};
use crate::telemetry::faults;
use crate::telemetry::logs::in_colour;

/// What blocking calls, such as a look-up of a name, may take at the end.
const LAST_CALLS: Duration = Duration::from_millis(100);

/// Serves the configuration at `path`.
#[must_use]
pub fn run(path: &Path) -> ExitCode {
    on_control_plane(serve(path, || ()))
}

/// Runs the control plane's side of a command, on this thread.
pub(super) fn on_control_plane(command: impl Future<Output = Result<(), StartError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::fail(&StartError::System(error)),
    };
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(LAST_CALLS);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let StartError::Config(problems) = &error {
                // Nobody reads it if this fails.
                let _ = pictures(problems, in_colour(&io::stderr()), &mut io::stderr().lock());
            }
            super::fail(&error)
        }
    }
}

/// Starts, calls `started`, and runs until a signal says stop.
pub(super) async fn serve(path: &Path, started: impl FnOnce()) -> Result<(), StartError> {
    // Before anything is started, so that no signal is missed.
    let asks = asks()?;
    let gateway = Gateway::start(path, io::stdout()).await?;
    faults::watch(Arc::clone(gateway.state()));
    started();
    gateway.run(asks).await;
    Ok(())
}

/// What signals ask for.
fn asks() -> io::Result<mpsc::Receiver<Signal>> {
    let (send, asks) = mpsc::channel(16);
    let signals = [
        (SignalKind::terminate(), Signal::Stop),
        (SignalKind::interrupt(), Signal::Stop),
        (SignalKind::hangup(), Signal::Reload),
    ];
    for (kind, ask) in signals {
        let (mut signal, send) = (signal(kind)?, send.clone());
        tokio::spawn(async move { while signal.recv().await.is_some() && send.send(ask).await.is_ok() {} });
    }
    Ok(asks)
}
