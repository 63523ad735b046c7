//! The start: everything is read, checked and bound before the first client is accepted.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::admin_server::{AdminServer, NewAdminSocket};
use super::apply::{both, file_hashes, warn_of_shared_addresses};
use super::health::UnpublishedChanges;
use super::listeners::{ListenerSet, NewSockets};
use super::{Gateway, Inputs, Outputs, Running, log_file, pending, record};
use crate::admin;
use crate::config::guard::guards;
use crate::config::problem::Problem;
use crate::config::source::SourceFile;
use crate::config::{Config, SocketMode};
use crate::control::acme::Acme;
use crate::control::certificates::in_force::{FilesInForce, Replacement};
use crate::control::certificates::tls_state::tls_state;
use crate::control::health::checker::{Checker, StateChange};
use crate::control::registry::Registry;
use crate::control::reload::last_good::{self, LastGoodCopy};
use crate::control::reload::reader::{ConfigReader, ReloadRules, env};
use crate::control::reload::source::{LoadedConfig, Source, Sources};
use crate::control::resolver::Resolver;
use crate::control::upstream_tls::{self, PoolsTls};
use crate::live::descriptors::Descriptors;
use crate::live::snapshot::Snapshot;
use crate::live::state::State;
use crate::proxy::context::ServerReport;
use crate::telemetry::access_log::AccessLogWriter;
use crate::telemetry::line_output::LostLines;
use crate::telemetry::logs;
use crate::telemetry::metrics::{Metrics, ProcessMetric, names};
use crate::telemetry::trace::{self, SpanSink};
use crate::worker::fd_limit;
use crate::worker::socket::{BindError, BoundSocket};
use crate::worker::{ClientLimit, WorkerPool};

/// How long the first lookup of the servers' names may delay the start.
const RESOLVE: Duration = Duration::from_secs(2);

/// Why the process cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is invalid. `Display` prints only the number of problems; the CLI renders each with its
    /// source line.
    Config(Vec<Problem>),
    /// The addresses that cannot be bound, and their places, as far as they are in the files.
    Bind(Vec<BindError>, Vec<Problem>),
    /// The system lacks something else, such as descriptors or threads.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(problems) => {
                let (count, plural) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
                write!(f, "the configuration has {count} problem{plural}; nothing was started")
            }
            Self::Bind(errors, problems) if !problems.is_empty() => {
                let addresses: Vec<_> = errors.iter().map(|error| error.address.to_string()).collect();
                write!(f, "cannot listen on {}; nothing was started", addresses.join(", "))
            }
            Self::Bind(errors, _) => {
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
    /// Starts from the file at `path` on the control plane's runtime, and writes the access log to `access_log`.
    ///
    /// # Errors
    /// If the configuration is invalid, an address cannot be bound, or the system lacks something. Then no client has
    /// been accepted.
    pub async fn start(path: &Path, access_log: impl io::Write + Send + 'static) -> Result<Self, StartError> {
        let started = Instant::now();
        let source = Source::new(path);
        let mut files = source.read(&env);
        let Initial { sources, config, files: referenced, file_problems } =
            Initial::of(&source, &files).map_err(StartError::Config)?;

        let logs = logs::init(&config.log)?;
        let descriptors = fd_limit::raise();
        let workers = config.proxy.worker_count();
        let (listeners, sockets, admin_socket) = bind(&config, &sources.files, workers)?;
        let acme = Acme::start();
        let first = first_generation(&config, (&sources, &referenced), workers, &acme);
        let (registry, snapshot) = first.map_err(StartError::Config)?;
        Resolver::first(&snapshot, RESOLVE).await;
        let state = Arc::new(State::new(Arc::clone(&snapshot)));

        let (spans, traces) = trace::start(&config.tracing);
        let mut access_log = AccessLogWriter::start(access_log)?;
        log_file::open_first(&mut access_log, &config.log, &sources.files)?;
        let client_limit = client_limit(&config, descriptors, workers);
        let (worker_pool, reports) = start_workers(&state, workers, &access_log, &spans, &client_limit)?;
        let (checker, health_changes) = start_checks(&snapshot);
        let resolver = start_lookups(&snapshot);
        let metrics = process_metrics(&state, logs.losses(), access_log.losses(), &spans, client_limit);
        let admin = start_admin(admin_socket, &state, metrics)?;
        let file_hash = files.hash.as_str().into();
        files.referenced = match &file_problems {
            None => sources.referenced.clone(),
            // Perhaps it is them that the files lack.
            Some(_) => files.clone().load(&env).sources.referenced,
        };
        files.in_force.clone_from(&sources.referenced);
        let rules = ReloadRules::from(&*config);
        let reader = ConfigReader::start(source, files, rules, Arc::clone(&state.watch_status))?;

        let last_good = LastGoodCopy::start(path.to_owned(), Arc::clone(&state.watch_status));
        let mut gateway = Self {
            workers,
            state,
            config,
            files: referenced,
            sources: sources.clone(),
            kept: Vec::new(),
            warned: Vec::new(),
            pending: None,
            running: Running { registry, listeners, worker_pool, checker, resolver, acme },
            inputs: Inputs { reader, health_changes, reports },
            outputs: Outputs { admin, logs, access_log, traces, last_good },
            unpublished: UnpublishedChanges::new(),
            retired: Vec::new(),
        };
        gateway.commit_listeners(sockets);
        gateway.running.acme.apply(&gateway.config, &gateway.files);
        sources.warn_of_unmatched();
        warn_of_shared_addresses(gateway.config.pools.iter());
        gateway.warn_of_unrouted(None);
        gateway.warn_of_certificates();
        gateway.warn_of_unverified(None);
        gateway.record(record::started(&snapshot, started));
        gateway.outputs.last_good.save(&gateway.config.reload, sources.files);
        if let Some(problems) = file_problems {
            gateway.record(record::fallen_back(file_hash, started, problems));
        }
        for listener in gateway.state.listeners().iter() {
            tracing::info!(listener = %listener.name, address = %listener.address, workers, "listening");
        }
        Ok(gateway)
    }
}

/// The configuration that the process starts with.
struct Initial {
    sources: Sources,
    config: Arc<Config>,
    /// The files that it refers to.
    files: FilesInForce,
    /// The problems of the files, if this is the last good copy instead.
    file_problems: Option<Vec<Problem>>,
}

impl Initial {
    /// The configuration of the files, or else the last good copy.
    fn of(source: &Source, files: &Sources) -> Result<Self, Vec<Problem>> {
        let problems = match load(files.clone()) {
            Ok((sources, config, files)) => return Ok(Self { sources, config, files, file_problems: None }),
            Err(problems) => problems,
        };
        let start = |files| load(source.with_files(files));
        match last_good::recover(source.path(), files, &env, start) {
            Ok((sources, config, files)) => Ok(Self { sources, config, files, file_problems: Some(problems) }),
            Err(more) => Err(problems.into_iter().chain(more).collect()),
        }
    }
}

/// Parses files, checks them against the guards, and reads the files that they refer to.
fn load(sources: Sources) -> Result<(Sources, Arc<Config>, FilesInForce), Vec<Problem>> {
    let LoadedConfig { sources, result } = sources.load(&env);
    let config = result?;
    let mut problems = guards(&sources.files, None, &config);
    let Replacement { files, missing, .. } = FilesInForce::default().replace(&sources.referenced, &sources.files);
    problems.extend(missing);
    problems.extend(upstream_tls::check(&config, &sources.files));
    if problems.is_empty() {
        let loaded = PoolsTls::load(&config, &files, &sources.files, &PoolsTls::default());
        problems.extend(loaded.err().into_iter().flatten());
        problems.extend(tls_state(&config, (&files, &sources.files), None).err().into_iter().flatten());
    }
    if problems.is_empty() { Ok((sources, Arc::new(config), files)) } else { Err(problems) }
}

/// Binds all addresses, or reports every one that cannot be bound.
fn bind(
    config: &Config,
    files: &[SourceFile],
    workers: usize,
) -> Result<(ListenerSet, NewSockets, NewAdminSocket), StartError> {
    let listeners = ListenerSet::new(workers);
    let failed = |errors: Vec<BindError>| {
        let problems = errors.iter().map(|error| pending::bind_problem(files, config, error)).collect();
        StartError::Bind(errors, problems)
    };
    let bound =
        (listeners.bind(&config.listeners, None), BoundSocket::bind(&config.admin.address, SocketMode::default(), &[]));
    let (sockets, admin) = both(bound).map_err(failed)?;
    let listening = (listeners.listen(sockets, &config.listeners, None), NewAdminSocket::listen(admin, &[]));
    let (sockets, admin) = both(listening).map_err(failed)?;
    Ok((listeners, sockets, admin))
}

fn first_generation(
    config: &Arc<Config>,
    (sources, files): (&Sources, &FilesInForce),
    workers: usize,
    acme: &Acme,
) -> Result<(Registry, Arc<Snapshot>), Vec<Problem>> {
    let mut registry = Registry::new(workers);
    let tls = PoolsTls::load(config, files, &sources.files, registry.tls())?;
    let plan = registry.plan(config, Instant::now(), |_| None).with_tls(tls);
    let versions = file_hashes(sources, files);
    let mut snapshot = plan.snapshot(1, sources.hash.as_str().into(), versions, SystemTime::now());
    snapshot.tls = tls_state(config, (files, &sources.files), None)?;
    snapshot.acme = acme.state_for(config);
    registry.commit(plan);
    Ok((registry, Arc::new(snapshot)))
}

/// The limit by the descriptors that are left once the sockets are bound, and before the workers open any.
fn client_limit(config: &Config, descriptors: usize, workers: usize) -> Arc<ClientLimit> {
    let servers = config.pools.iter().map(|pool| pool.servers.len()).sum();
    let limit = fd_limit::connections(descriptors, fd_limit::open(), workers, config.listeners.len(), servers);
    Arc::new(ClientLimit::new(Descriptors::new(limit, workers)))
}

fn start_workers(
    state: &State,
    workers: usize,
    access_log: &AccessLogWriter,
    spans: &SpanSink,
    client_limit: &Arc<ClientLimit>,
) -> io::Result<(WorkerPool, mpsc::UnboundedReceiver<ServerReport>)> {
    let (sender, reports) = mpsc::unbounded_channel();
    let access_logs = (0..workers).map(|_| access_log.worker()).collect();
    let worker_pool = WorkerPool::start(state, access_logs, spans, Arc::clone(client_limit), sender)?;
    Ok((worker_pool, reports))
}

fn start_checks(snapshot: &Snapshot) -> (Checker, mpsc::UnboundedReceiver<StateChange>) {
    let (sender, health_changes) = mpsc::unbounded_channel();
    let mut checker = Checker::new(sender);
    checker.apply(snapshot);
    (checker, health_changes)
}

fn start_lookups(snapshot: &Snapshot) -> Resolver {
    let mut resolver = Resolver::default();
    resolver.apply(snapshot);
    resolver
}

fn start_admin(socket: NewAdminSocket, state: &Arc<State>, metrics: Vec<ProcessMetric>) -> io::Result<AdminServer> {
    let metrics = Metrics::new(Arc::clone(state), metrics).map_err(io::Error::other)?;
    let context = Arc::new(admin::AdminContext::new(Arc::clone(state), metrics));
    tokio::spawn(Arc::clone(&context.feed).run());
    Ok(AdminServer::start(socket, context))
}

/// The metrics of the process that are not part of the live state.
fn process_metrics(
    state: &Arc<State>,
    log_losses: LostLines,
    access_log_losses: LostLines,
    spans: &SpanSink,
    client_limit: Arc<ClientLimit>,
) -> Vec<ProcessMetric> {
    let (exported, dropped) = (spans.clone(), spans.clone());
    let (state, configured, limit) = (Arc::clone(state), Arc::clone(state), Arc::clone(&client_limit));
    let limit = move || limit.limit(configured.snapshot.load().config.limits.connections) as u64;
    vec![
        ProcessMetric::new(names::ACCESS_LOG_DROPPED_LINES, move || access_log_losses.lines()),
        ProcessMetric::new(names::LOG_DROPPED_LINES, move || log_losses.lines()),
        ProcessMetric::new(names::CLIENT_CONNECTIONS_LIMIT, limit),
        ProcessMetric::new(names::CLIENTS_DELAYED, move || client_limit.delayed()),
        ProcessMetric::new(names::SPANS_EXPORTED, move || exported.exported()),
        ProcessMetric::new(names::SPANS_DROPPED, move || dropped.dropped()),
        ProcessMetric::new(names::PANICS, move || state.panics()),
    ]
}
