//! The real Prometheus, where it is installed, queried through its API.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::client::get;
use super::lb::{Lines, lines};
use super::{eventually, percent_encoded};

/// A running Prometheus with short intervals, killed when dropped.
#[derive(Debug)]
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    log: Lines,
    _directory: TempDir,
}

/// A series of a result: its labels and its value.
pub(crate) type Sample = (Value, f64);

impl Prometheus {
    /// Starts with `admin` as the target of the job `lb` and the text of a file of rules, and waits for the first
    /// scrape. If Prometheus is not installed, prints that and returns `None`.
    pub(crate) fn start(admin: SocketAddr, rules: &str) -> Option<Self> {
        let directory = TempDir::new().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("rules.yml"), rules).expect("a file");
        fs::write(path("prometheus.yml"), configuration(admin)).expect("a file");
        let mut child = spawn(&path("prometheus.yml"), &path("data"))?;
        let log = lines(child.stderr.take().expect("piped"));
        let address = eventually("Prometheus listens", || {
            let lines = log.lock().expect("lines");
            let line = lines.iter().find(|line| line.contains("Listening on"))?;
            // The log does not quote addresses.
            let address = line.split("address=").nth(1)?;
            Some(address.split(' ').next()?.parse().expect("an address"))
        });
        let prometheus = Self { child, address, log, _directory: directory };
        eventually("Prometheus scrapes", || {
            prometheus.try_query("up{job=\"lb\"} == 1").ok().filter(|samples| samples.len() == 1)
        });
        Some(prometheus)
    }

    /// GETs a path of the API, and returns the data or the error.
    pub(crate) fn api(&self, path: &str) -> Result<Value, String> {
        let response = get(self.address, path);
        let body: Value = serde_json::from_slice(&response.body).map_err(|_| response.text())?;
        if body["status"] == "success" { Ok(body["data"].clone()) } else { Err(body.to_string()) }
    }

    /// Evaluates an expression, which may be invalid.
    pub(crate) fn try_query(&self, expression: &str) -> Result<Vec<Sample>, String> {
        let data = self.api(&format!("/api/v1/query?query={}", percent_encoded(expression)))?;
        let sample = |series: &Value| {
            let value = series["value"][1].as_str().and_then(|value| value.parse().ok());
            (series["metric"].clone(), value.expect("a number"))
        };
        Ok(data["result"].as_array().ok_or(data.to_string())?.iter().map(sample).collect())
    }

    /// Evaluates a valid expression.
    #[track_caller]
    pub(crate) fn query(&self, expression: &str) -> Vec<Sample> {
        self.try_query(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The states (`pending` or `firing`) of an alert, one for each series that raises it.
    pub(crate) fn alert(&self, name: &str) -> Vec<String> {
        let data = self.api("/api/v1/alerts").expect("alerts");
        let alerts = data["alerts"].as_array().expect("alerts");
        let named = alerts.iter().filter(|alert| alert["labels"]["alertname"] == name);
        named.map(|alert| alert["state"].as_str().expect("a state").to_owned()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the log of Prometheus:\n{}", self.log.lock().expect("lines").join("\n"));
        }
    }
}

fn configuration(admin: SocketAddr) -> String {
    format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 200ms }}\n\
         rule_files: [rules.yml]\n\
         scrape_configs: [{{ job_name: lb, static_configs: [{{ targets: [\"{admin}\"] }}] }}]\n"
    )
}

fn spawn(configuration: &Path, data: &Path) -> Option<Child> {
    let mut command = Command::new("prometheus");
    command.arg("--config.file").arg(configuration).arg("--storage.tsdb.path").arg(data);
    command.args(["--web.listen-address", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: prometheus is not installed (Debian's package has that name)");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
