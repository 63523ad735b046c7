//! The access log in a file: rotated, truncated, full, shared, switched by edits.

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, PORTS, command, run};
use crate::support::servers::Server;

/// `[log]` with these keys.
fn log(keys: &str) -> String {
    format!("{NO_CHECKS}[log]\n{keys}\n")
}

const JSON_FILE: &str = "access = \"access.log\"\naccess_format = \"json\"";

/// A file beside the configuration.
fn beside(lb: &Lb, name: &str) -> PathBuf {
    lb.path().with_file_name(name)
}

/// The lines of a file, which may not exist yet.
fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits until the files have `count` lines together, and returns them.
#[track_caller]
fn lines(count: usize, paths: &[PathBuf]) -> Vec<String> {
    let all = || paths.iter().flat_map(|path| lines_of(path)).collect::<Vec<_>>();
    eventually(&format!("{count} lines"), || Some(all()).filter(|lines| lines.len() >= count))
}

/// The `path` of each line of JSON, in order.
fn sorted_paths(lines: &[String]) -> Vec<String> {
    let path = |line: &String| serde_json::from_str::<Value>(line).expect(line)["path"].as_str().unwrap().to_owned();
    let mut paths: Vec<_> = lines.iter().map(path).collect();
    paths.sort();
    paths
}

/// Sends requests from four clients, and calls `meanwhile` with the number that have been made, until all are made.
/// Returns their paths.
fn under_load(address: SocketAddr, each: usize, mut meanwhile: impl FnMut(usize)) -> Vec<String> {
    let made = AtomicUsize::new(0);
    thread::scope(|scope| {
        let client = |number: usize| {
            let made = &made;
            move || {
                let mut client = Client::connect(address);
                for request in 0..each {
                    assert_eq!(client.get(&format!("/{number}/{request}")).status, 200);
                    made.fetch_add(1, Relaxed);
                }
            }
        };
        let clients: Vec<_> = (0..4).map(|number| scope.spawn(client(number))).collect();
        while !clients.iter().all(thread::ScopedJoinHandle::is_finished) {
            meanwhile(made.load(Relaxed));
            thread::yield_now();
        }
    });
    let mut paths: Vec<_> =
        (0..4).flat_map(|number| (0..each).map(move |request| format!("/{number}/{request}"))).collect();
    paths.sort();
    paths
}

// Case: log-rotation
#[test]
fn no_line_is_lost_or_doubled_while_the_file_is_rotated() {
    let server = Server::named("server1");
    for signal in [false, true] {
        let lb = Lb::in_front_of(&server, &log(JSON_FILE).replace(NO_CHECKS, ""));
        let current = beside(&lb, "access.log");
        assert_eq!(fs::metadata(&current).unwrap().permissions().mode() & 0o777, 0o640);
        let mut files = vec![current.clone()];
        let paths = under_load(lb.address(), 600, |made| {
            if made >= files.len() * 150 && !lines_of(&current).is_empty() {
                let old = beside(&lb, &format!("access.log.{}", files.len()));
                fs::rename(&current, &old).unwrap();
                files.push(old);
                if signal {
                    lb.signal("USR1");
                }
            }
        });
        assert!(files.len() > 2, "{}", files.len());
        assert_eq!(sorted_paths(&lines(paths.len(), &files)), paths);
        assert!(files.iter().skip(1).all(|file| fs::read(file).unwrap().ends_with(b"\n")));
        assert_eq!(lb.metric("lb_access_log_dropped_lines_total"), Some(0.0));
    }
}

// Case: log-rotation
#[test]
fn a_signal_opens_a_new_file_at_once_and_never_ends_the_process() {
    let server = Server::named("server1");
    let mut lb = Lb::in_front_of(&server, "");
    let signals = |lb: &Lb| {
        let script = format!("for i in $(seq 100); do kill -USR1 {}; done", lb.pid());
        assert!(std::process::Command::new("sh").arg("-c").arg(script).status().unwrap().success());
    };
    // Nothing to open.
    signals(&lb);
    assert_eq!(get(lb.address(), "/").status, 200);
    lb.apply(&format!("{}{}", log(JSON_FILE), server.table("server1")));
    let current = beside(&lb, "access.log");
    fs::rename(&current, beside(&lb, "old.log")).unwrap();
    signals(&lb);
    eventually("a new file without any request", || current.exists().then_some(()));
    fs::remove_file(&current).unwrap();
    assert_eq!(get(lb.address(), "/a").status, 200);
    assert_eq!(sorted_paths(&lines(1, &[current])), ["/a"]);
    assert!(!lb.has_panicked());
    lb.signal("TERM");
    assert!(lb.ends().success());
}

// Case: log-rotation
#[test]
fn a_truncated_file_goes_on_at_its_beginning() {
    let server = Server::named("server1");
    let lb = Lb::in_front_of(&server, &log(JSON_FILE).replace(NO_CHECKS, ""));
    let path = beside(&lb, "access.log");
    for round in ["/1", "/2", "/3"] {
        get(lb.address(), round);
        assert_eq!(sorted_paths(&lines(1, std::slice::from_ref(&path))), [round]);
        fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    }
}

#[test]
fn an_edit_switches_file_and_format_between_two_lines() {
    let server = Server::named("server1");
    let table = server.table("server1");
    let config = |number: usize| match number % 3 {
        0 => log("access = \"0.log\"\naccess_format = \"json\"") + &table,
        1 => log("access = \"1.log\"\naccess_format = \"text\"\nheaders = [\"Host\"]") + &table,
        _ => log("access = \"2.log\"\naccess_format = \"combined\"") + &table,
    };
    let lb = Lb::start(&config(0));
    let mut paths = Vec::new();
    for number in 1..=6 {
        let mut edited = false;
        paths.extend(under_load(lb.address(), 40, |made| {
            if made >= 40 && !std::mem::replace(&mut edited, true) {
                lb.edit(&config(number));
            }
        }));
        lb.reaches(number as u64 + 1);
    }
    paths.sort();
    let files: Vec<_> = (0..3).map(|number| beside(&lb, &format!("{number}.log"))).collect();
    let all = lines(paths.len(), &files);
    assert_eq!(all.len(), paths.len());
    let mut logged = sorted_paths(&lines_of(&files[0]));
    for line in lines_of(&files[1]) {
        assert!(line.contains(" headers.host="), "{line}");
        logged.push(line.split(' ').nth(3).unwrap().to_owned());
    }
    for line in lines_of(&files[2]) {
        logged.push(combined(&line)[4].split(' ').nth(1).unwrap().to_owned());
    }
    logged.sort();
    assert_eq!(logged, paths);
    // Old files are closed.
    eventually("one open file", || {
        let open = fs::read_dir(format!("/proc/{}/fd", lb.pid())).ok()?;
        let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        (links.filter(|path| path.extension().is_some_and(|end| end == "log")).count() == 1).then_some(())
    });
}

/// The parts of a line of the combined format: address, identity, user, time, request, status, bytes, referer, user agent.
#[track_caller]
fn combined(line: &str) -> Vec<String> {
    let (head, rest) = line.split_once(" [").expect(line);
    let (time, rest) = rest.split_once("] \"").expect(line);
    let mut parts: Vec<String> = head.split(' ').map(str::to_owned).collect();
    assert_eq!(parts.len(), 3, "{line}");
    parts.push(time.to_owned());
    let quoted: Vec<&str> = rest.strip_suffix('"').expect(line).split('"').collect();
    let [request, numbers, referer, " ", agent] = quoted[..] else { panic!("{line}") };
    parts.push(request.to_owned());
    parts.extend(numbers.trim().split(' ').map(str::to_owned));
    parts.extend([referer.to_owned(), agent.to_owned()]);
    assert_eq!(parts.len(), 9, "{line}");
    parts
}

// Case: log-forgery
#[test]
fn the_combined_format_is_read_by_tools_whatever_clients_send() {
    let server = Server::named("server1");
    let lb = Lb::in_front_of(&server, "[log]\naccess_format = \"combined\"\nformat = \"json\"\n");
    for (number, (sent, request, status, referer, agent)) in (1..).zip([
        (
            "GET /a?b HTTP/1.1\r\nHost: a\r\nReferer: http://b/\r\nUser-Agent: x y\r\n\r\n",
            "GET /a?b HTTP/1.1",
            "200",
            "http://b/",
            "x y",
        ),
        ("GET /b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /b HTTP/1.1", "200", "-", "-"),
        // A header that the server does not get is logged as it came.
        (
            "GET /c HTTP/1.1\r\nHost: a\r\nConnection: user-agent, close\r\nUser-Agent: x\r\n\r\n",
            "GET /c HTTP/1.1",
            "200",
            "-",
            "x",
        ),
        (
            "GET /d HTTP/1.1\r\nHost: a\r\nUser-Agent: \"}\\ \t\u{e9} - -\r\n\r\n",
            "GET /d HTTP/1.1",
            "200",
            "-",
            r"\x22}\x5c \x09\xc3\xa9 - -",
        ),
        ("GET /../.. HTTP/1.1\r\nHost: a\r\n\r\n", "GET /../.. HTTP/1.1", "400", "-", "-"),
        ("nonsense\r\n\r\n", "-", "400", "-", "-"),
    ]) {
        Client::connect(lb.address()).request(sent);
        let line = eventually("a line", || lb.stdout().get(number - 1).cloned());
        let parts = combined(&line);
        let wanted = ["127.0.0.1", "-", "-", &parts[3], request, status, &parts[6], referer, agent];
        assert_eq!(parts, wanted);
        let time = parts[3].as_bytes();
        assert!(time.len() == 26 && time[2] == b'/' && time[6] == b'/' && parts[3].ends_with(" +0000"), "{line}");
        assert!(parts[6].parse::<u64>().is_ok(), "{line}");
    }
}

#[test]
fn chosen_headers_are_logged_as_they_came() {
    let server = Server::named("server1");
    let config = |format: &str| {
        let keys = format!("access_format = \"{format}\"\nheaders = [\"Referer\", \"X-Forwarded-For\", \"x-a\"]\n");
        log(&keys) + &server.table("server1")
    };
    let lb = Lb::start(&config("json"));
    let request =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-a\r\nX-A: 1\r\nx-a: \"2\"\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    Client::connect(lb.address()).request(request);
    let line = lb.logs("a line", |line| line.contains("generation\":1"));
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["headers"], serde_json::json!({ "x-a": "1, \"2\"", "x-forwarded-for": "192.0.2.1" }));
    assert_eq!((&entry["client"], entry.get("user_agent")), (&"127.0.0.1".into(), None));
    lb.apply(&config("text"));
    Client::connect(lb.address()).request(request);
    let line = lb.logs("a line", |line| line.ends_with("generation=2"));
    assert!(line.contains(r#" headers.x-a="1, \"2\"" headers.x-forwarded-for=192.0.2.1 "#), "{line}");
    let rejected = lb.newest_reload();
    lb.edit(&(log("headers = [\"Cookie\"]") + &server.table("server1")));
    let problem = &lb.next_reload(&rejected)["problems"][0];
    assert!(problem["message"].as_str().unwrap().contains("credentials"), "{problem}");
}

#[test]
fn a_full_disk_costs_lines_but_no_request_and_ends() {
    let server = Server::named("server1");
    let full = log("access = \"/dev/full\"\naccess_format = \"json\"") + &server.table("server1");
    let lb = Lb::start(&full);
    let mut client = Client::connect(lb.address());
    for _ in 0..50 {
        assert_eq!(client.get("/").status, 200);
    }
    eventually("all are counted", || (lb.metric("lb_access_log_dropped_lines_total") == Some(50.0)).then_some(()));
    eventually("the log says so", || {
        lb.stderr()
            .iter()
            .any(|line| line.contains("access log lines were lost") && line.contains("/dev/full"))
            .then_some(())
    });
    lb.apply(&(log(JSON_FILE) + &server.table("server1")));
    client.get("/after");
    assert_eq!(sorted_paths(&lines(1, &[beside(&lb, "access.log")])), ["/after"]);
}

#[test]
fn a_file_at_its_size_limit_does_not_end_the_process_and_tears_no_line() {
    let server = Server::named("server1");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    fs::write(&path, format!("{PORTS}{}{}", log(JSON_FILE), server.table("server1"))).unwrap();
    let mut shell = std::process::Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("ulimit -f 8; exec {} \"$@\"", env!("CARGO_BIN_EXE_lb")))
        .arg("sh")
        .env("NO_COLOR", "1");
    let mut lb = Lb::start_as(shell, directory, path);
    let mut client = Client::connect(lb.address());
    let dropped = |lb: &Lb| lb.metric("lb_access_log_dropped_lines_total").unwrap();
    let mut sent = 0;
    while dropped(&lb) < 20.0 {
        assert_eq!(client.get(&format!("/{sent}")).status, 200);
        sent += 1;
        assert!(sent < 5_000, "it is never full");
    }
    let (current, old) = (beside(&lb, "access.log"), beside(&lb, "old.log"));
    // The last line of a full file may be cut off. Its rest waits for space.
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let whole = |path: &Path| text(path).matches('\n').count();
    let torn = |path: &Path| usize::from(!text(path).is_empty() && !text(path).ends_with('\n'));
    let accounted = |path: &Path| (whole(path) + torn(path)) as f64 + dropped(&lb);
    eventually("every line is written or counted", || (accounted(&current) == f64::from(sent)).then_some(()));
    let (lost, was_torn) = (dropped(&lb), torn(&current));
    // Logrotate makes room.
    fs::rename(&current, &old).unwrap();
    let more: Vec<_> = (0..5).map(|number| format!("/more/{number}")).collect();
    for path in &more {
        assert_eq!(client.get(path).status, 200);
    }
    drop(client);
    assert_eq!(sorted_paths(&lines(more.len(), &[current])), more);
    assert_eq!(dropped(&lb), lost + was_torn as f64);
    assert_eq!(sorted_paths(&lines_of(&old)[..whole(&old)]).len(), whole(&old));
    lb.signal("TERM");
    assert!(lb.ends().success());
}

#[test]
fn a_missing_directory_is_reported_at_its_place_and_waited_for() {
    let server = Server::named("server1");
    let table = server.table("server1");
    let config = log("access = \"logs/access.log\"\naccess_format = \"json\"") + &table;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    fs::write(&path, format!("{PORTS}{config}")).unwrap();
    for arguments in [&["run", "-c"][..], &["check"]] {
        let ran = run(&[arguments, &[path.to_str().unwrap()]].concat());
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        let text = ran.out + &ran.err;
        assert!(text.contains("lb.toml:8:10") && text.contains("cannot write the access log"), "{text}");
        assert!(text.contains("create the directory"), "{text}");
    }
    assert!(!directory.path().join("logs").exists());

    let lb = Lb::start(&format!("{NO_CHECKS}{table}"));
    let before = lb.newest_reload();
    lb.edit(&config);
    let pending = lb.next_reload(&before);
    let problem = &pending["problems"][0];
    assert_eq!((&pending["outcome"], &problem["line"], &problem["column"]), (&"pending".into(), &8.into(), &10.into()));
    get(lb.address(), "/stdout");
    lb.logs("a line on standard output", |line| line.contains("/stdout"));
    fs::create_dir(beside(&lb, "logs")).unwrap();
    lb.reaches(2);
    get(lb.address(), "/file");
    assert_eq!(sorted_paths(&lines(1, &[beside(&lb, "logs/access.log")])), ["/file"]);
}

#[test]
fn a_path_is_relative_to_the_file_that_names_it() {
    let server = Server::named("server1");
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    let log_file = directory.path().join("conf.d/log.toml");
    fs::write(&log_file, "[log]\naccess = \"../a/../conf.d/access.log\"\naccess_format = \"json\"\n").unwrap();
    fs::create_dir(directory.path().join("a")).unwrap();
    let path = directory.path().join("lb.toml");
    let main = format!("include = [\"conf.d/*.toml\"]\n{PORTS}{NO_CHECKS}{}", server.table("server1"));
    fs::write(&path, main).unwrap();
    let mut elsewhere = command();
    elsewhere.current_dir("/");
    let lb = Lb::start_as(elsewhere, directory, path);
    get(lb.address(), "/a");
    assert_eq!(sorted_paths(&lines(1, &[beside(&lb, "conf.d/access.log")])), ["/a"]);
}

#[test]
fn two_processes_share_a_file() {
    let server = Server::named("server1");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("access.log");
    let config = log(&format!("access = \"{}\"\naccess_format = \"json\"", path.display())) + &server.table("server1");
    let balancers = [Lb::start(&config), Lb::start(&config)];
    let mut paths = thread::scope(|scope| {
        let loads: Vec<_> = balancers.iter().map(|lb| scope.spawn(|| under_load(lb.address(), 150, |_| ()))).collect();
        loads.into_iter().flat_map(|load| load.join().unwrap()).collect::<Vec<_>>()
    });
    paths.sort();
    assert_eq!(sorted_paths(&lines(paths.len(), &[path])), paths);
}

#[test]
fn what_is_left_is_written_at_the_end() {
    let server = Server::named("server1");
    let mut lb = Lb::in_front_of(&server, &log(JSON_FILE).replace(NO_CHECKS, ""));
    let path = beside(&lb, "access.log");
    let paths = under_load(lb.address(), 50, |_| ());
    lb.signal("TERM");
    assert!(lb.ends().success());
    assert_eq!(sorted_paths(&lines_of(&path)), paths);
}

#[test]
fn a_slow_reader_of_a_pipe_costs_no_request_and_no_line_that_fits() {
    let server = Server::named("server1");
    let directory = TempDir::new().unwrap();
    let fifo = directory.path().join("access.log");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let path = directory.path().join("lb.toml");
    fs::write(&path, format!("{PORTS}{}{}", log(JSON_FILE), server.table("server1"))).unwrap();
    // Without a reader, it cannot be opened.
    let ran = run(&["run", "-c", path.to_str().unwrap()]);
    assert!(ran.code == Some(1) && ran.err.contains("cannot write the access log"), "{ran:#?}");
    // Open for both, so that opening it does not wait.
    let mut reader = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let mut lb = Lb::start_as(command(), directory, path);
    let paths = under_load(lb.address(), 200, |_| ());
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while text.iter().filter(|byte| **byte == b'\n').count() < paths.len() {
        let length = reader.read(&mut part).unwrap();
        text.extend_from_slice(&part[..length]);
    }
    let lines: Vec<_> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(sorted_paths(&lines), paths);
    lb.signal("TERM");
    assert!(lb.ends().success());
}

// Case: log-rotation
#[test]
fn a_directory_that_is_moved_away_keeps_the_lines_until_there_is_another() {
    let server = Server::named("server1");
    let directory = TempDir::new().unwrap();
    let place = |name: &str| directory.path().join(name);
    fs::create_dir(place("logs")).unwrap();
    let keys = format!("access = \"{}\"\naccess_format = \"json\"", place("logs/access.log").display());
    let lb = Lb::start(&(log(&keys) + &server.table("server1")));
    fs::rename(place("logs"), place("old")).unwrap();
    lb.signal("USR1");
    for path in ["/a", "/b"] {
        get(lb.address(), path);
    }
    assert_eq!(sorted_paths(&lines(2, &[place("old/access.log")])), ["/a", "/b"]);
    let warnings = || lb.stderr().iter().filter(|line| line.contains("cannot reopen the access log")).count();
    eventually("one warning", || (warnings() == 1).then_some(()));
    fs::create_dir(place("logs")).unwrap();
    get(lb.address(), "/c");
    assert_eq!(sorted_paths(&lines(1, &[place("logs/access.log")])), ["/c"]);
    assert_eq!(warnings(), 1);
}

#[test]
fn the_configuration_is_no_log() {
    let server = Server::named("server1");
    let config = log("access = \"lb.toml\"") + &server.table("server1");
    let lb = Lb::start(&(NO_CHECKS.to_owned() + &server.table("server1")));
    let before = lb.newest_reload();
    lb.edit(&config);
    let reload = lb.next_reload(&before);
    assert_eq!(reload["outcome"], "rejected", "{reload}");
    assert!(reload["problems"][0]["message"].as_str().unwrap().contains("cannot be written to"), "{reload}");
    assert_eq!(fs::read_to_string(lb.path()).unwrap(), format!("{PORTS}{config}"));
}
