//! A real browser, driven by WebDriver: Chromium without a window.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Client;

/// A browser takes its time to start, and more on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running browser with one page. Ends with the test.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// Starts one; none where there is no browser or no driver.
    pub(crate) fn start() -> Option<Self> {
        let there =
            |program| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
        if !there("chromium") || !there("chromedriver") {
            return None;
        }
        let mut driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port =
            lines.find_map(|line| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok());
        // It may go on to talk.
        std::thread::spawn(move || lines.for_each(drop));
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("the driver listens")));
        let mut browser = Self { driver, address, session: String::new() };
        // Without a sandbox, which root and containers do not get; it sees no other page than ours.
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"];
        let options = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let session = browser.command("POST", "/session", &json!({ "capabilities": { "alwaysMatch": options } }));
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    /// Opens a page.
    pub(crate) fn open(&self, url: &str) {
        self.command("POST", &format!("{}/url", self.session), &json!({ "url": url }));
    }

    /// What a function with this body returns in the page.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("POST", &format!("{}/execute/sync", self.session), &json!({ "script": script, "args": [] }))
    }

    /// The text of what a selector finds, shown or not; empty where it finds nothing.
    pub(crate) fn text(&self, selector: &str) -> String {
        let found = self.run(&format!(
            "return [...document.querySelectorAll({})].map((node) => node.textContent).join('\\n')",
            json!(selector)
        ));
        found.as_str().expect("text").to_owned()
    }

    /// What the page's console said since it was asked last: errors, violations of the policy, what could not be loaded.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.command("POST", &format!("{}/se/log", self.session), &json!({ "type": "browser" }));
        entries.as_array().expect("entries").iter().map(Value::to_string).collect()
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut client = Client::connect(self.address);
        client.socket().set_read_timeout(Some(PATIENCE)).unwrap();
        let answer = client.request(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.status, 200, "{path}: {value:#}");
        value["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.command("DELETE", &self.session, &json!({}));
        }
        // The browser ends with its driver.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
