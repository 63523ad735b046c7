//! Pebble, a real ACME server for tests, with the DNS server that it asks: every name leads to 127.0.0.1.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair};
use serde_json::json;
use tempfile::TempDir;

use super::eventually;
use super::lb::{Lines, lines};

/// A running Pebble, killed when dropped.
#[derive(Debug)]
pub(crate) struct Pebble {
    child: Child,
    dns: Child,
    files: TempDir,
    address: SocketAddr,
    management: SocketAddr,
    log: Lines,
}

/// The ports that Pebble verifies names at, and what it issues.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verification {
    pub(crate) http: u16,
    pub(crate) tls: u16,
    /// How long certificates are valid, in seconds.
    pub(crate) lifetime: u64,
}

impl Pebble {
    /// Starts it and waits until it serves. If it is not installed, prints that and returns `None`.
    pub(crate) fn start(verification: Verification) -> Option<Self> {
        // Ports are free until somebody else takes them: try again then.
        for _ in 0..5 {
            match Self::try_start(verification) {
                Started::Running(pebble) => return Some(*pebble),
                Started::Missing => return None,
                Started::PortTaken => {}
            }
        }
        panic!("Pebble does not start")
    }

    fn try_start(verification: Verification) -> Started {
        let files = TempDir::new().expect("a directory");
        let [address, management, dns_address, dns_management] = free_addresses();
        write_certificates(files.path());
        let config = json!({"pebble": {
            "listenAddress": address.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": files.path().join("server.pem"),
            "privateKey": files.path().join("server.key"),
            "httpPort": verification.http,
            "tlsPort": verification.tls,
            "keyAlgorithm": "ecdsa",
            "domainBlocklist": ["blocked.example"],
            "retryAfter": {"authz": 1, "order": 1},
            "profiles": {"default": {"description": "", "validityPeriod": verification.lifetime}},
        }});
        let path = files.path().join("pebble.json");
        fs::write(&path, config.to_string()).expect("written");

        let mut dns = Command::new("pebble-challtestsrv");
        dns.args(["-dnsserver", &dns_address.to_string(), "-management", &dns_management.to_string()]);
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv6", ""]);
        dns.stdout(Stdio::null()).stderr(Stdio::null());
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(&path).args(["-dnsserver", &dns_address.to_string()]);
        // Names are verified anew, and at once.
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0").env("PEBBLE_WFE_NONCEREJECT", "10");
        pebble.stdout(Stdio::piped()).stderr(Stdio::null());
        let (dns, mut child) = match (dns.spawn(), pebble.spawn()) {
            (Ok(dns), Ok(pebble)) => (dns, pebble),
            (Err(error), other) | (other, Err(error)) if error.kind() == ErrorKind::NotFound => {
                other.into_iter().for_each(end);
                eprintln!(
                    "skipped: pebble and pebble-challtestsrv are not installed (go install \
                     github.com/letsencrypt/pebble/v2/cmd/...@latest), so there is no test with a real ACME server"
                );
                return Started::Missing;
            }
            (dns, pebble) => panic!("{dns:?}, {pebble:?}"),
        };
        let log = lines(child.stdout.take().expect("piped"));
        let mut started = Self { child, dns, files, address, management, log };
        let serves = eventually("Pebble serves", || {
            if started.child.try_wait().expect("a child").is_some()
                || started.dns.try_wait().expect("a child").is_some()
            {
                return Some(false);
            }
            started.logged("ACME directory available").then_some(true)
        });
        if serves { Started::Running(Box::new(started)) } else { Started::PortTaken }
    }

    /// The keys of `[acme]` that lead to it.
    pub(crate) fn keys(&self) -> String {
        let (directory, ca) = (format!("https://{}/dir", self.address), self.ca());
        format!("directory = \"{directory}\"\nca = \"{}\"\n", ca.display())
    }

    /// The authority of its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    /// How many lines of its log contain these words.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.log.lock().expect("lines").iter().filter(|line| line.contains(words)).count()
    }

    pub(crate) fn issued(&self) -> usize {
        self.count("Issued certificate serial")
    }

    pub(crate) fn logged(&self, words: &str) -> bool {
        self.count(words) > 0
    }

    /// Makes it suggest to renew the certificate at `path` between these times.
    pub(crate) fn suggest(&self, path: &Path, start: &str, end: &str) {
        let response = json!({"suggestedWindow": {"start": start, "end": end}}).to_string();
        let body = json!({"Certificate": fs::read_to_string(path).expect("a file"), "ARIResponse": response});
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--data", "@-", "--cacert"]).arg(self.ca());
        curl.arg(format!("https://{}/set-renewal-info/", self.management)).stdin(Stdio::piped());
        let mut child = curl.spawn().expect("curl");
        child.stdin.take().expect("piped").write_all(body.to_string().as_bytes()).expect("written");
        assert!(child.wait().expect("a child").success());
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the log of Pebble:\n{}", self.log.lock().expect("lines").join("\n"));
        }
        for child in [&mut self.child, &mut self.dns] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

enum Started {
    Running(Box<Pebble>),
    Missing,
    PortTaken,
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Addresses that are free for both TCP and UDP.
fn free_addresses() -> [SocketAddr; 4] {
    let sockets = [(); 4].map(|()| {
        eventually("a free port", || {
            let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
            let udp = UdpSocket::bind(tcp.local_addr().expect("an address")).ok()?;
            Some((tcp, udp))
        })
    });
    sockets.each_ref().map(|(tcp, _)| tcp.local_addr().expect("an address"))
}

/// `ca.pem`, and `server.pem` with `server.key` for 127.0.0.1.
pub(crate) fn write_certificates(directory: &Path) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("signed").pem();
    let key = KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut leaf = CertificateParams::new(names).expect("names");
    // With the name of its authority, it would look as if it had signed itself.
    leaf.distinguished_name = DistinguishedName::new();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).expect("signed").pem();
    for (name, text) in [("ca.pem", ca_pem), ("server.pem", leaf), ("server.key", key.serialize_pem())] {
        fs::write(directory.join(name), text).expect("written");
    }
}
