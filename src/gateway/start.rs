//! Starting: everything is read, checked and bound before the first client is accepted.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::apply::{files, first_reload};
use super::listeners::Listeners;
use super::{Admin, Gateway};
use crate::admin;
use crate::config::Config;
use crate::config::guard::guards;
use crate::config::problem::Problem;
use crate::config::source::{Loaded, Source};
use crate::health::checker::Checker;
use crate::listener::{self, BindError};
use crate::registry::Registry;
use crate::reload::reader::{Pace, Reader, env};
use crate::resolver::Resolver;
use crate::state::State;
use crate::telemetry::access_log::{AccessLogWriter, Losses};
use crate::telemetry::logs;
use crate::telemetry::metrics::{Extra, Metrics};
use crate::telemetry::trace::{self, SpanSink};
use crate::worker::Crew;

/// How long the first resolution of servers' names may hold the start up.
const RESOLVE: Duration = Duration::from_secs(2);

/// Why the process cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is not valid.
    Config(Vec<Problem>),
    /// Addresses that cannot be listened on.
    Bind(Vec<BindError>),
    /// The system lacks something else.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(problems) => {
                for problem in problems {
                    writeln!(f, "{problem}\n")?;
                }
                let count = problems.len();
                write!(
                    f,
                    "the configuration has {count} problem{}; nothing was started",
                    if count == 1 { "" } else { "s" }
                )
            }
            Self::Bind(errors) => {
                for (i, error) in errors.iter().enumerate() {
                    write!(f, "{}{error}; {}", if i == 0 { "" } else { "\n" }, error.hint())?;
                }
                Ok(())
            }
            Self::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Gateway {
    /// Starts from the file at `path`, on the control plane's runtime; the access log goes to `access`.
    ///
    /// # Errors
    /// When the configuration is not valid, an address is taken, or the system lacks something;
    /// then nothing has been started.
    pub async fn start(path: &Path, access: impl io::Write + Send + 'static) -> Result<Self, StartError> {
        let since = Instant::now();
        let source = Source::new(path);
        let Loaded { sources, result } = source.read(&env).load(&env);
        let config = Arc::new(result.map_err(StartError::Config)?);
        let problems = guards(path, None, &config);
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }

        let logs = logs::init(&config.log);
        let workers = workers(&config);
        let mut listeners = Listeners::new(workers);
        let (fresh, admin) = bind(&mut listeners, &config)?;

        let mut registry = Registry::new(workers);
        registry.apply(None, &config, Instant::now());
        let snapshot =
            Arc::new(registry.snapshot(&config, 1, sources.hash.as_str().into(), files(&sources), SystemTime::now()));
        Resolver::first(&snapshot, RESOLVE).await;

        let state = Arc::new(State::new(Arc::clone(&snapshot)));
        let (spans, traces) = trace::start(&config.tracing);
        let access = AccessLogWriter::start(access)?;
        let crew = Crew::start(&state, (0..workers).map(|_| access.worker()).collect(), &spans)?;
        let (changed, changes) = mpsc::unbounded_channel();
        let mut checker = Checker::new(changed);
        checker.apply(&snapshot);
        let (news, resolved) = mpsc::unbounded_channel();
        let mut resolver = Resolver::new(news);
        resolver.apply(&snapshot);

        let metrics =
            Metrics::new(Arc::clone(&state), extras(&state, access.losses(), &spans)).map_err(io::Error::other)?;
        let context = Arc::new(admin::Context { state: Arc::clone(&state), metrics });
        let admin = Admin::serve(config.admin.address, admin, context)?;

        let (pace, paces) = watch::channel(Pace { quiet: config.reload.quiet, poll: config.reload.poll });
        let asked = Arc::new(Notify::new());
        let (send, candidates) = mpsc::channel(1);
        let reader = tokio::spawn(Reader::new(source, sources, paces, Arc::clone(&asked)).run(send));

        listeners.commit(fresh, &config.listeners, &crew, config.timeouts.drain, Instant::now());
        state.set_listeners(listeners.live(&config.listeners));
        let gateway = Self {
            path: path.to_owned(),
            state,
            config,
            registry,
            listeners,
            crew,
            workers,
            checker,
            changes,
            resolver,
            resolved,
            admin,
            logs,
            access,
            traces,
            pace,
            asked,
            candidates,
            reader,
        };
        gateway.record(first_reload(&snapshot, since));
        for listener in gateway.state.listeners().iter() {
            tracing::info!(listener = %listener.name, address = %listener.address, workers, "listening");
        }
        Ok(gateway)
    }
}

/// Binds all addresses, or says of each that cannot be bound why.
fn bind(
    listeners: &mut Listeners,
    config: &Config,
) -> Result<(super::listeners::Fresh, std::net::TcpListener), StartError> {
    match (listeners.prepare(&config.listeners), listener::bind(config.admin.address, &[])) {
        (Ok(fresh), Ok(admin)) => Ok((fresh, admin)),
        (fresh, admin) => Err(StartError::Bind(fresh.err().into_iter().flatten().chain(admin.err()).collect())),
    }
}

fn workers(config: &Config) -> usize {
    match config.proxy.workers {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        workers => workers,
    }
}

/// What the process counts of itself beside what the state tells.
fn extras(state: &Arc<State>, losses: Losses, spans: &SpanSink) -> Vec<Extra> {
    let (exported, dropped, state) = (spans.clone(), spans.clone(), Arc::clone(state));
    #[allow(clippy::cast_precision_loss, reason = "metrics are floats")]
    let extra = |name, help, read: Box<dyn Fn() -> u64 + Send + Sync>| Extra {
        name,
        help,
        read: Box::new(move || read() as f64),
    };
    vec![
        extra(
            "lb_access_log_dropped_lines_total",
            "Lines of the access log that were dropped because their writer was behind.",
            Box::new(move || losses.lines()),
        ),
        extra("lb_spans_exported_total", "Spans that a collector took.", Box::new(move || exported.exported())),
        extra("lb_spans_dropped_total", "Spans that were dropped or refused.", Box::new(move || dropped.dropped())),
        extra("lb_panics_total", "Requests and tasks ended by a fault in lb itself.", Box::new(move || state.panics())),
    ]
}

impl Admin {
    /// Serves the admin address from a bound socket.
    fn serve(
        configured: std::net::SocketAddr,
        socket: std::net::TcpListener,
        context: Arc<admin::Context>,
    ) -> io::Result<Self> {
        let (held, socket) = (socket.try_clone()?, TcpListener::from_std(socket)?);
        tracing::info!(address = %socket.local_addr()?, "admin address");
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            // It is dropped, not sent.
            let _ = stopped.await;
        };
        tokio::spawn(admin::serve(socket, Arc::clone(&context), stopped));
        Ok(Self { context, configured, socket: held, _stop: stop })
    }

    /// Goes on at another address; what is open at the old one ends there.
    pub(super) fn move_to(&mut self, configured: std::net::SocketAddr, socket: std::net::TcpListener) {
        match Self::serve(configured, socket, Arc::clone(&self.context)) {
            Ok(moved) => *self = moved,
            Err(error) => tracing::error!(%error, "the admin address cannot be moved"),
        }
    }
}
