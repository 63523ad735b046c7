//! Starting: everything is read, checked and bound before the first client is accepted.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{Admin, Gateway};
use crate::admin;
use crate::config::guard::guards;
use crate::config::problem::{Problem, Reason};
use crate::config::{Config, file};
use crate::control::gateway::apply::{fallen_back, files, first_reload};
use crate::control::gateway::listeners::Listeners;
use crate::control::health::checker::Checker;
use crate::control::registry::Registry;
use crate::control::reload::last_good;
use crate::control::reload::reader::{Reader, ReloadRules, env};
use crate::control::reload::source::{Loaded, Source, Sources};
use crate::control::resolver::Resolver;
use crate::live::state::State;
use crate::telemetry::access_log::{AccessLogWriter, Losses};
use crate::telemetry::logs;
use crate::telemetry::metrics::{Extra, Metrics};
use crate::telemetry::trace::{self, SpanSink};
use crate::worker::fd_limit;
use crate::worker::socket::{self, BindError};
use crate::worker::{ClientLimit, WorkerPool};

/// How long the first resolution of servers' names may hold the start up.
const RESOLVE: Duration = Duration::from_secs(2);

/// Why the process cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is not valid. Displays as how many problems it has: who can show pictures shows them.
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
                let (count, plural) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
                write!(f, "the configuration has {count} problem{plural}; nothing was started")
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
        let found = source.read(&env);
        let First { sources, config, refused } = First::of(&source, &found).map_err(StartError::Config)?;

        let logs = logs::init(&config.log);
        let descriptors = fd_limit::raise();
        let workers = workers(&config);
        let mut listeners = Listeners::new(workers);
        let (fresh, admin) = bind(&mut listeners, &config)?;

        let mut registry = Registry::new(workers);
        registry.apply(&config, Instant::now());
        let snapshot =
            Arc::new(registry.snapshot(&config, 1, sources.hash.as_str().into(), files(&sources), SystemTime::now()));
        Resolver::first(&snapshot, RESOLVE).await;

        let state = Arc::new(State::new(Arc::clone(&snapshot)));
        let (spans, traces) = trace::start(&config.tracing);
        let access = AccessLogWriter::start(access)?;
        let (fail, failing) = mpsc::unbounded_channel();
        let most = fd_limit::clients(descriptors, fd_limit::open(), workers, config.listeners.len());
        let client_limit = Arc::new(ClientLimit::new(most));
        let logs_of_access = (0..workers).map(|_| access.worker()).collect();
        let worker_pool = WorkerPool::start(&state, logs_of_access, &spans, Arc::clone(&client_limit), fail)?;
        let (changed, changes) = mpsc::unbounded_channel();
        let mut checker = Checker::new(changed);
        checker.apply(&snapshot);
        let mut resolver = Resolver::default();
        resolver.apply(&snapshot);

        let metrics = Metrics::new(Arc::clone(&state), extras(&state, access.losses(), &spans, client_limit))
            .map_err(io::Error::other)?;
        let context = Arc::new(admin::Context::new(Arc::clone(&state), metrics));
        tokio::spawn(Arc::clone(&context.feed).run());
        let admin = Admin::serve(config.admin.address, admin, context)?;

        let (pace, paces) = watch::channel(ReloadRules { quiet: config.reload.quiet, poll: config.reload.poll });
        let asked = Arc::new(Notify::new());
        let (send, candidates) = mpsc::channel(1);
        let sight = Arc::clone(&state.watch_status);
        let found_hash = found.hash.as_str().into();
        Reader::new(source, found, paces, Arc::clone(&asked), sight).start(send)?;

        listeners.commit(fresh, &config.listeners, &worker_pool, config.timeouts.drain, Instant::now());
        state.set_listeners(listeners.live(&config.listeners));
        let mut gateway = Self {
            path: path.to_owned(),
            state,
            config,
            registry,
            listeners,
            worker_pool,
            workers,
            checker,
            changes,
            failing,
            resolver,
            admin,
            logs,
            access,
            traces,
            pace,
            asked,
            candidates,
            retired: Vec::new(),
            keeping: None,
        };
        gateway.record(first_reload(&snapshot, since));
        match refused {
            None => gateway.keep(&sources),
            Some(problems) => gateway.record(fallen_back(found_hash, since, problems)),
        }
        for listener in gateway.state.listeners().iter() {
            tracing::info!(listener = %listener.name, address = %listener.address, workers, "listening");
        }
        Ok(gateway)
    }
}

/// What a process begins with.
struct First {
    sources: Sources,
    config: Arc<Config>,
    /// What is wrong with the files, if this is what was kept of better times.
    refused: Option<Vec<Problem>>,
}

impl First {
    /// The configuration of these files, or else the last good one.
    fn of(source: &Source, found: &Sources) -> Result<Self, Vec<Problem>> {
        let problems = match good(source.path(), found.clone()) {
            Ok((sources, config)) => return Ok(Self { sources, config, refused: None }),
            Err(problems) => problems,
        };
        let Some(directory) = last_good::directory(&file::reload(&found.files, &env), &env) else {
            return Err(problems);
        };
        let kept = match last_good::find(&directory, source.path()) {
            Ok(Some(files)) => good(source.path(), source.of(files)),
            Ok(None) => return Err(problems),
            Err(error) => Err(vec![unusable(&directory, &error.to_string())]),
        };
        match kept {
            Ok((sources, config)) => Ok(Self { sources, config, refused: Some(problems) }),
            Err(more) => Err(problems.into_iter().chain(more).collect()),
        }
    }
}

fn good(path: &Path, sources: Sources) -> Result<(Sources, Arc<Config>), Vec<Problem>> {
    let Loaded { sources, result } = sources.load(&env);
    let config = result?;
    let problems = guards(path, None, &config);
    if problems.is_empty() { Ok((sources, Arc::new(config))) } else { Err(problems) }
}

fn unusable(directory: &Path, why: &str) -> Problem {
    Problem::of_file(directory, Reason::new(format!("the last good configuration cannot be used: {why}")))
}

/// Binds all addresses, or says of each that cannot be bound why.
fn bind(
    listeners: &mut Listeners,
    config: &Config,
) -> Result<(crate::control::gateway::listeners::Fresh, std::net::TcpListener), StartError> {
    match (listeners.prepare(&config.listeners), socket::bind(config.admin.address, &[])) {
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
fn extras(state: &Arc<State>, losses: Losses, spans: &SpanSink, client_limit: Arc<ClientLimit>) -> Vec<Extra> {
    let (exported, dropped) = (spans.clone(), spans.clone());
    let (state, configured, limit) = (Arc::clone(state), Arc::clone(state), Arc::clone(&client_limit));
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
        extra(
            "lb_client_connections_limit",
            "Client connections that may be open at once, by the file or for want of descriptors.",
            Box::new(move || limit.limit(configured.snapshot.load().config.limits.connections) as u64),
        ),
        extra(
            "lb_clients_delayed_total",
            "Clients that waited for another to leave; who waits in the system's queue behind them is not known.",
            Box::new(move || client_limit.delayed()),
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
