//! `lb` as a process, with its own file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Response, get};
use super::eventually;
use super::servers::Server;

/// The first lines of every test's configuration: ports that the system chooses.
pub(crate) const PORTS: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";

/// No health checks, so that servers see only the clients' requests.
pub(crate) const NO_CHECKS: &str = "[health]\nkind = \"none\"\n";

/// The lines of an output so far.
pub(crate) type Lines = Arc<Mutex<Vec<String>>>;

/// A running `lb`, killed when dropped.
#[derive(Debug)]
pub(crate) struct Lb {
    child: Child,
    directory: TempDir,
    path: PathBuf,
    stdout: Lines,
    stderr: Lines,
    pub(crate) admin: SocketAddr,
}

/// The `lb` command, or the program in the environment variable `LB`, such as an optimised build to measure.
pub(crate) fn command() -> Command {
    let program = std::env::var_os("LB").unwrap_or_else(|| env!("CARGO_BIN_EXE_lb").into());
    let mut command = Command::new(program);
    command.env_remove("LB_CONFIG").env("NO_COLOR", "1");
    command
}

/// `[[server]]` tables for the default pool.
pub(crate) fn servers(servers: &[(&str, SocketAddr, u32)]) -> String {
    let table = |(name, address, weight): &(&str, SocketAddr, u32)| {
        format!("[[server]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = {weight}\n")
    };
    servers.iter().map(table).collect()
}

impl Lb {
    /// Starts with [`PORTS`] and then `config`, and waits until it listens.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_file(&format!("{PORTS}{config}"))
    }

    /// Starts with exactly `file` as its configuration.
    pub(crate) fn start_file(file: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("lb.toml");
        fs::write(&path, file).expect("a file");
        Self::start_in(directory, path)
    }

    /// Starts with the existing file at `path`.
    pub(crate) fn start_in(directory: TempDir, path: PathBuf) -> Self {
        Self::start_as(command(), directory, path)
    }

    /// Like [`Lb::start_in`], with a command that [`command`] has made.
    pub(crate) fn start_as(mut command: Command, directory: TempDir, path: PathBuf) -> Self {
        command.arg("--config").arg(&path);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lb starts");
        let stdout = lines(child.stdout.take().expect("piped"));
        let stderr = lines(child.stderr.take().expect("piped"));
        let admin = eventually("lb listens", || {
            let lines = stderr.lock().expect("lines");
            assert!(!lines.iter().any(|line| line.starts_with("lb: ")), "{lines:#?}");
            let listens = lines.iter().any(|line| line.contains("listening"));
            let line = lines.iter().find(|line| line.contains("admin address"))?;
            let address = line.split("address=").nth(1).or_else(|| line.split("\"address\":\"").nth(1))?;
            let end = address.find(['"', ' ']).unwrap_or(address.len());
            listens.then(|| address[..end].parse().expect("an address"))
        });
        Self { child, directory, path, stdout, stderr, admin }
    }

    /// The path of its configuration.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory of the process, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().split(' ').next().and_then(|size| size.parse().ok()).expect("a number")
    }

    /// The address of the first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        let listeners = self.api("/api/listeners");
        listeners["listeners"][0]["address"].as_str().expect("an address").parse().expect("an address")
    }

    /// GETs a path of the admin address.
    pub(crate) fn ask(&self, path: &str) -> Response {
        get(self.admin, path)
    }

    /// GETs JSON from the admin address.
    pub(crate) fn api(&self, path: &str) -> Value {
        let response = self.ask(path);
        serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("{path}: {response:?}"))
    }

    /// A server as the API shows it.
    pub(crate) fn server(&self, name: &str) -> Value {
        self.api(&format!("/api/servers/{name}"))
    }

    /// One value of `/metrics`, by its name and labels.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let text = self.ask("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Replaces the file with [`PORTS`] and then `config`, by renaming.
    pub(crate) fn edit(&self, config: &str) {
        self.edit_file(&format!("{PORTS}{config}"));
    }

    /// Replaces the file, by renaming.
    pub(crate) fn edit_file(&self, file: &str) {
        self.edit_bytes(file.as_bytes());
    }

    /// Replaces the file, by renaming, with bytes that may be invalid UTF-8.
    pub(crate) fn edit_bytes(&self, file: &[u8]) {
        let new = self.directory.path().join("lb.toml.new");
        fs::write(&new, file).expect("a file");
        fs::rename(new, self.path()).expect("renamed");
    }

    /// Edits as [`Lb::edit`] does, and waits until the edit is applied.
    #[track_caller]
    pub(crate) fn apply(&self, config: &str) {
        let before = self.generation();
        self.edit(config);
        self.reaches(before + 1);
    }

    /// The current generation.
    pub(crate) fn generation(&self) -> u64 {
        self.api("/api/config")["generation"].as_u64().expect("a number")
    }

    /// Waits for this generation or a later one.
    #[track_caller]
    pub(crate) fn reaches(&self, generation: u64) {
        eventually(&format!("generation {generation}; {:#?}", self.api("/api/reloads")), || {
            (self.generation() >= generation).then_some(())
        });
    }

    /// Waits for a newer reload than `since`, and returns it.
    #[track_caller]
    pub(crate) fn next_reload(&self, since: &Value) -> Value {
        eventually("another reload", || Some(self.newest_reload()).filter(|reload| reload != since))
    }

    pub(crate) fn newest_reload(&self) -> Value {
        self.api("/api/reloads?limit=1")["reloads"][0].clone()
    }

    /// Waits until a server has this status.
    #[track_caller]
    pub(crate) fn server_is(&self, name: &str, status: &str) {
        eventually(&format!("{name} is {status}; {}", self.api("/api/servers")), || {
            (self.server(name)["status"] == status).then_some(())
        });
    }

    /// Standard output so far: the access log.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lock().expect("lines").clone()
    }

    /// Standard error so far: the process log.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.lock().expect("lines").clone()
    }

    /// Whether the process log reports a panic.
    pub(crate) fn has_panicked(&self) -> bool {
        self.stderr().iter().any(|line| line.contains("panic"))
    }

    /// Standard output and standard error. While a test has one of them locked, nothing more is read from it.
    pub(crate) fn outputs(&self) -> (Lines, Lines) {
        (Arc::clone(&self.stdout), Arc::clone(&self.stderr))
    }

    /// Its standard input, if the command has made it a pipe.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped")
    }

    /// Sends a signal, named without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        // `kill` is built into the shell; not every machine has the program.
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.pid())).status();
        assert!(status.expect("sh runs").success());
    }

    /// Waits until the process ends.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        eventually("lb ends", || self.child.try_wait().expect("a child"))
    }

    /// Waits for a line of the access log, and returns it.
    #[track_caller]
    pub(crate) fn logs(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        eventually(&format!("{what} in the access log"), || self.stdout().into_iter().find(|line| matches(line)))
    }

    /// Starts with [`PORTS`], no health checks, `config` and one server.
    pub(crate) fn in_front_of(server: &Server, config: &str) -> Self {
        Self::start(&format!("{NO_CHECKS}{config}{}", server.table("server1")))
    }

    /// Closes the reading end of standard error after its next line, so that later writes fail.
    pub(crate) fn deafen(&mut self) {
        self.stderr = Lines::default();
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("standard error of lb:\n{}", self.stderr().join("\n"));
        }
    }
}

/// Collects the lines of an output for as long as the result is in use.
pub(crate) fn lines(output: impl std::io::Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let wanted = Arc::downgrade(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Some(lines) = wanted.upgrade() else { return };
            lines.lock().expect("lines").push(line);
        }
    });
    lines
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Parses standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{self:#?}"))
    }
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs `lb` with these arguments.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    command().args(arguments).output().expect("lb runs").into()
}
