//! A headless Chromium, driven by WebDriver.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Client;

/// The limit of a command. A browser needs long to start on a busy machine.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// A running browser with one page, ended when dropped.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// Starts a browser. `None` if the browser or its driver is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts a browser with more arguments.
    pub(crate) fn start_with(more: &[&str]) -> Option<Self> {
        let is_installed =
            |program| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
        if !is_installed("chromium") || !is_installed("chromedriver") {
            return None;
        }
        let mut driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port =
            lines.find_map(|line| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok());
        // The driver may block if nobody reads its output.
        std::thread::spawn(move || lines.for_each(drop));
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("the driver listens")));
        let mut browser = Self { driver, address, session: String::new() };
        // Root and containers get no sandbox; it opens no pages but ours.
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"];
        let arguments = [&arguments, more].concat();
        let options = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let session = browser.command("POST", "/session", &json!({ "capabilities": { "alwaysMatch": options } }));
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("POST", &format!("{}/url", self.session), &json!({ "url": url }));
    }

    /// Runs a function with this body in the page, and returns its result.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("POST", &format!("{}/execute/sync", self.session), &json!({ "script": script, "args": [] }))
    }

    /// The text of the elements that match a selector, visible or not.
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.run(&format!(
            "return [...document.querySelectorAll({})].map((node) => node.textContent).join('\\n')",
            json!(selector)
        ));
        text.as_str().expect("text").to_owned()
    }

    /// The console's new entries since the last call: errors, violations of the policy, failed loads.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.command("POST", &format!("{}/se/log", self.session), &json!({ "type": "browser" }));
        entries.as_array().expect("entries").iter().map(Value::to_string).collect()
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut client = Client::connect(self.address);
        client.socket().set_read_timeout(Some(COMMAND_DEADLINE)).unwrap();
        let response = client.request(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(response.status, 200, "{path}: {value:#}");
        value["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.command("DELETE", &self.session, &json!({}));
        }
        // This ends the browser too.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
