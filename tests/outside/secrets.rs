//! Secrets: values from the environment and the user parts of URLs are never shown. And values from the environment that
//! are numbers and switches.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, PORTS, Ran, command};
use crate::support::servers::{Server, respond};

/// A part of every secret here.
const SECRET: &str = "s3cr3t";

/// `lb` with an environment.
fn with_env(variables: &[(&str, &str)]) -> Command {
    let mut command = command();
    command.envs(variables.iter().copied());
    command
}

fn start(variables: &[(&str, &str)], config: &str) -> Lb {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("lb.toml");
    fs::write(&path, format!("{PORTS}{config}")).expect("a file");
    Lb::start_as(with_env(variables), directory, path)
}

fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    with_env(variables).args(arguments).stdin(Stdio::null()).output().expect("lb runs").into()
}

/// Everything that the balancer shows about its configuration and its edits.
fn shown(lb: &Lb) -> String {
    let paths = ["/api/config", "/api/reloads", "/api/pools", "/api/figures", "/metrics", "/"];
    let pages: Vec<String> = paths.iter().map(|path| lb.ask(path).text()).collect();
    pages.join("\n") + &lb.stderr().join("\n") + &lb.stdout().join("\n")
}

#[test]
fn credentials_in_a_url_are_used_and_never_shown() {
    let collector = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let server = Server::named("a");
    let (auth, at) = (format!("user:{SECRET}%40"), collector.address);
    let rest = format!("{NO_CHECKS}{}", server.table("a"));
    let config =
        format!("[tracing]\nzipkin = \"http://${{AUTH}}@{at}/z\"\notlp = \"http://user:{SECRET}@{at}/o\"\n{rest}");
    let env = [("AUTH", auth.as_str())];
    let lb = start(&env, &config);
    let tracing = &lb.api("/api/config")["config"]["tracing"];
    assert_eq!(tracing["zipkin"], format!("http://${{AUTH}}@{at}/z"));
    assert_eq!(tracing["otlp"], format!("http://***@{at}/o"));

    // The collectors get them, and reject the spans, which is logged with the URL.
    Client::connect(lb.address()).get("/");
    for (path, credentials) in [("/z", "Basic dXNlcjpzM2NyM3RA"), ("/o", "Basic dXNlcjpzM2NyM3Q=")] {
        eventually(&format!("credentials for {path}"), || {
            let requests = collector.requests();
            let request = requests.iter().find(|request| request.path() == path)?;
            assert_eq!(request.values("authorization"), [credentials]);
            Some(())
        });
    }
    eventually("both losses are logged", || {
        (lb.stderr().iter().filter(|line| line.contains("spans were lost")).count() == 2).then_some(())
    });

    // An edit that shows nothing but that they changed.
    lb.apply(&config.replace(&format!("user:{SECRET}@"), &format!("user:{SECRET}2@")));
    assert_eq!(
        lb.newest_reload()["changes"],
        json!([format!("tracing.otlp: other credentials for http://***@{at}/o")])
    );
    let admin = lb.admin.to_string();
    for variables in [&env[..], &[("AUTH", "x:y")]] {
        let new = lb.path().with_file_name("new.toml");
        fs::write(&new, format!("{PORTS}{rest}")).unwrap();
        let plan = run(variables, &["plan", new.to_str().unwrap(), "--admin", &admin]);
        let text = &plan.out;
        assert!(text.contains(&format!("tracing.zipkin: http://${{AUTH}}@{at}/z -> none")), "{plan:#?}");
        assert!(
            text.contains(&format!("tracing.otlp: http://***@{at}/o -> none")) && !text.contains(SECRET),
            "{plan:#?}"
        );
        let same = run(variables, &["plan", lb.path().to_str().unwrap(), "--admin", &admin]);
        assert!(same.out.contains("no changes"), "{same:#?}");
    }
    lb.apply(&rest);
    let changes = lb.newest_reload()["changes"].to_string();
    assert!(changes.contains(&format!("tracing.zipkin: http://${{AUTH}}@{at}/z -> none")), "{changes}");

    // A bad edit, with the secret in the value and in a comment of its line.
    let before = lb.newest_reload();
    lb.edit(&format!(
        "[tracing]\nzipkin = \"https://${{AUTH}}@{at}/\" # http://user:{SECRET}@x\notlp = \"user:{SECRET}@x\"\n{rest}"
    ));
    let rejected = lb.next_reload(&before);
    assert_eq!(rejected["outcome"], "rejected");
    assert_eq!(rejected["problems"].as_array().map(Vec::len), Some(2), "{rejected:#}");
    let all = shown(&lb);
    assert!(all.contains("${AUTH}") && all.contains("***@"));
    assert!(!all.contains(SECRET), "{}", all.lines().find(|line| line.contains(SECRET)).unwrap_or_default());
}

#[test]
fn values_from_the_environment_are_shown_as_typed() {
    let server = Server::named("a");
    let address = server.address.to_string();
    let port = server.address.port().to_string();
    let env = [
        ("PORT", port.as_str()),
        ("WEIGHT", "5"),
        ("ON", "true"),
        ("DRAIN", "7s"),
        ("HOST", "s3cr3t.example"),
        ("CHECK", "/s3cr3t"),
        ("SERVICE", "s3cr3t"),
        ("SAMPLE", "0.5"),
        ("HEADERS", "77"),
        ("BUDGET", "9%"),
        ("ALGORITHM", "random"),
    ];
    let lb = start(
        &env,
        "hosts = [\"a\", \"${HOST}\"]\n[timeouts]\ndrain = \"${DRAIN}\"\n[limits]\nheaders = \"${HEADERS}\"\n\
         [tracing]\nservice = \"${SERVICE}\"\nsample = \"${SAMPLE}\"\n[log]\naccess = \"${ACCESS:-false}\"\n\
         [retry]\nbudget = \"${BUDGET}\"\n[balance]\nalgorithm = \"${ALGORITHM}\"\n[health]\nkind = \"tcp\"\npath = \"${CHECK}\"\n\
         [[server]]\nname = \"a\"\naddress = \"127.0.0.1:${PORT}\"\nweight = \"${WEIGHT}\"\nenabled = \"${ON}\"\n\
         [[server]]\nname = \"b\"\naddress = \"127.0.0.1:${PORT}\"\nweight = \"${UNSET:-3}\"\nenabled = \"${UNSET:-false}\"\n\
         [pool.other.health]\npath = \"/own\"\n[[pool.other.server]]\nname = \"c\"\naddress = \"127.0.0.1:1\"\n",
    );
    // What is live is not secret: it is what the balancer does.
    let of = |name: &str, key: &str| lb.server(name)[key].clone();
    assert_eq!((of("a", "address"), of("a", "weight"), of("a", "enabled")), (json!(address), json!(5), json!(true)));
    assert_eq!((of("b", "weight"), of("b", "enabled")), (json!(3), json!(false)));

    let config = lb.api("/api/config")["config"].clone();
    let pool = |name: &str| {
        let pools = config["pool"].as_array().unwrap();
        pools.iter().find(|pool| pool["name"] == name).unwrap().clone()
    };
    for (place, typed) in [
        (&config["admin"]["hosts"], json!(["a", "${HOST}"])),
        (&config["timeouts"]["drain"], json!("${DRAIN}")),
        (&config["limits"]["headers"], json!("${HEADERS}")),
        (&config["tracing"]["service"], json!("${SERVICE}")),
        (&config["tracing"]["sample"], json!("${SAMPLE}")),
        (&config["log"]["access"], json!(false)),
        (&pool("default")["retry"]["budget"], json!("${BUDGET}")),
        (&pool("default")["health"]["path"], json!("${CHECK}")),
        (&pool("other")["health"]["path"], json!("/own")),
        (&pool("other")["balance"]["algorithm"], json!("${ALGORITHM}")),
        (&pool("default")["server"][0]["address"], json!("127.0.0.1:${PORT}")),
        (&pool("default")["server"][0]["weight"], json!("${WEIGHT}")),
        (&pool("default")["server"][0]["enabled"], json!("${ON}")),
        (&pool("default")["server"][1]["weight"], json!(3)),
    ] {
        assert_eq!(*place, typed);
    }
    assert!(!shown(&lb).contains("s3cr3t"));

    // Another environment makes no difference to a plan.
    let (path, admin) = (lb.path(), lb.admin.to_string());
    let new = path.with_file_name("new.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&new, text.replace("drain = \"${DRAIN}\"", "drain = \"9s\"")).unwrap();
    for variables in [
        &env[..],
        &[
            ("DRAIN", "8s"),
            ("PORT", "1"),
            ("WEIGHT", "6"),
            ("ON", "false"),
            ("HOST", "h"),
            ("CHECK", "/c"),
            ("SERVICE", "s"),
            ("SAMPLE", "1"),
            ("HEADERS", "50"),
            ("BUDGET", "1%"),
            ("ALGORITHM", "round-robin"),
        ],
    ] {
        let plan = run(variables, &["plan", new.to_str().unwrap(), "--admin", &admin, "--format", "json"]);
        let plan: Value = serde_json::from_str(&plan.out).expect("JSON");
        assert_eq!(plan["changes"], json!(["timeouts.drain: ${DRAIN} -> 9s"]), "{plan:#}");
    }
    lb.edit_file(
        &text.replace("drain = \"${DRAIN}\"", "drain = \"9s\"").replace("weight = \"${WEIGHT}\"", "weight = 6"),
    );
    lb.reaches(2);
    assert_eq!(
        lb.newest_reload()["changes"],
        json!(["timeouts.drain: ${DRAIN} -> 9s", "server default/a: weight ${WEIGHT} -> 6"])
    );
}

#[test]
fn an_invalid_value_from_the_environment_is_not_quoted() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    for (key, value, words) in [
        ("[log]\nlevel = \"${X}\"", "s3cr3t", "`level` must be a level such as \"info\", but `${X}` is not"),
        ("[proxy]\nvia = \"${X}\"", "s3cr3t", "`via` must be true or false, but `${X}` is not"),
        ("[proxy]\nvia = \"${X}\"", "True", "`via` must be true or false, but `${X}` is not"),
        (
            "[limits]\nheaders = \"${X}\"",
            "99999999",
            "`headers` must be a whole number from 1 to 10000, but `${X}` is not",
        ),
        (
            "[limits]\nheaders = \"1${X}\"",
            "s3cr3t",
            "`headers` must be a whole number from 1 to 10000, but `1${X}` is not",
        ),
        ("[tracing]\nsample = \"${X}\"", "s3cr3t", "`sample` must be a number from 0.0 to 1.0, but `${X}` is not"),
        ("[tracing]\nsample = \"${X}\"", "nan", "`sample` must be a number from 0.0 to 1.0, but `${X}` is not"),
        (
            "[timeouts]\nidle = \"${X}\"",
            "s3cr3t",
            "`idle` must be a duration above 0s such as \"30s\", but `${X}` is not",
        ),
        ("[reload]\npoll = \"${X}\"", "s3cr3t", "`poll` must be a duration such as \"30s\", but `${X}` is not"),
        ("[retry]\nbudget = \"${X}\"", "s3cr3t%", "`budget` must be a percentage from 0% to 100%, but `${X}` is not"),
        ("[retry]\nbudget = \"${X}\"", "150%", "`budget` must be a percentage from 0% to 100%, but `${X}` is not"),
        (
            "[timeouts]\nconnect = \"${X}\"",
            "0ms",
            "`connect` must be a duration above 0s such as \"30s\", but `${X}` is not",
        ),
        (
            "[limits]\nheader_bytes = \"${X}\"",
            "17GiB",
            "`header_bytes` must be a size from 256B to 16MiB, but `${X}` is not",
        ),
        ("[health]\nkind = \"${X}\"", "s3cr3t", "but `${X}` is not"),
        ("[admin]\naddress = \"127.0.0.1:${X}\"", "s3cr3t", "but `127.0.0.1:${X}` is not"),
        ("[proxy]\ntrusted_proxies = [\"${X}\"]", "s3cr3t", "a list of networks, but `${X}` cannot be in it"),
        ("[[route]]\npool = \"${X}\"", "s3cr3t", "there is no pool `${X}`"),
        ("[[route]]\npool = \"${X}\"", "s3cr3t", "correct the value of the environment variable `X`"),
        (
            "[[route]]\nhost = \"${X}\"\npool = \"default\"\n[[route]]\nhost = \"${X}\"\npool = \"default\"",
            "s3cr3t",
            "another route already matches `${X}/`",
        ),
        (
            "[[route]]\nname = \"${X}\"\npool = \"default\"\n[[route]]\nname = \"${X}\"\npath = \"/a\"\npool = \"default\"",
            "s3cr3t",
            "another route is already named `${X}`",
        ),
        (
            "[[listener]]\nname = \"${X}\"\naddress = \"127.0.0.1:1\"\n[[listener]]\nname = \"${X}\"\naddress = \"127.0.0.1:2\"",
            "s3cr3t",
            "another listener is already named `${X}`",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:${X}\"\n[[listener]]\naddress = \"127.0.0.1:${X}\"",
            "34567",
            "already has the address 127.0.0.1:${X}",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:${X}\"\n[[listener]]\naddress = \"0.0.0.0:${X}\"",
            "34567",
            "0.0.0.0:${X} overlaps with the listener at 127.0.0.1:${X}",
        ),
        (
            "[admin]\naddress = \"127.0.0.1:${X}\"\n[[listener]]\naddress = \"127.0.0.1:${X}\"",
            "34567",
            "[admin] already listens on 127.0.0.1:${X}",
        ),
        (
            "[[server]]\nname = \"${X}\"\naddress = \"a:1\"\n[[server]]\nname = \"${X}\"\naddress = \"a:1\"",
            "s3cr3t",
            "already has a server `${X}`",
        ),
    ] {
        let rest = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[server]]\nname = \"a\"\naddress = \"a:1\"\n";
        fs::write(&path, format!("{rest}{key}\n")).unwrap();
        for format in ["text", "json", "github"] {
            let ran = run(&[("X", value)], &["check", path.to_str().unwrap(), "--format", format]);
            assert_eq!(ran.code, Some(1), "{key}: {ran:#?}");
            let out = ran.out.replace("\\\"", "\"").replace("%25", "%");
            assert!(out.contains(words), "{key}: {ran:#?}");
            assert!(!out.contains(value), "{key}: {ran:#?}");
        }
        let ran = run(&[("X", value)], &["--config", path.to_str().unwrap()]);
        assert!(ran.code == Some(1) && !ran.err.contains(value), "{key}: {ran:#?}");
    }
}

#[test]
fn a_value_from_the_environment_changes_no_other_words_of_a_message() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    let text = "[[listener]]\naddress = \"${HOST}:1\"\n[tracing]\nservice = \"${WORD}\"\nzipkin = \"ftp://x\"\n\
                [[server]]\nname = \"${WORD}\"\n[[route]]\npool = \"wbe\"\n[[pool.web.server]]\nname = \"a\"\n";
    fs::write(&path, text).unwrap();
    let ran = run(&[("HOST", "127.0.0.1"), ("WORD", "address")], &["check", path.to_str().unwrap()]);
    for words in [
        "write for example `http://127.0.0.1:9411/api/v2/spans`",
        "this [[server]] has no `address`",
        "add `address = \"127.0.0.1:8081\"`",
        "did you mean `web`?",
    ] {
        assert!(ran.out.contains(words), "{words}: {ran:#?}");
    }
}

#[test]
fn names_routes_and_cookies_from_the_environment_are_shown_as_typed() {
    let server = Server::named("a");
    let env = [("ROUTE", "s3cr3t.example"), ("COOKIE", "s3cr3tcookie"), ("NAME", "s3cr3t"), ("STICKY", "false")];
    let elsewhere = [("ROUTE", "h"), ("COOKIE", "c"), ("NAME", "n"), ("STICKY", "false")];
    let routed = "[[route]]\nhost = \"${ROUTE}\"\npool = \"p\"\n[pool.p.balance]\nsticky = \"${STICKY}\"\n\
                  [[pool.p.server]]\nname = \"${NAME}\"\naddress = \"127.0.0.1:1\"\n";
    let base = format!("{NO_CHECKS}[balance]\nsticky = {{ cookie = \"${{COOKIE}}\" }}\n{}", server.table("a"))
        + "[[route]]\npool = \"default\"\n";
    let lb = start(&env, &format!("{base}{routed}"));
    let (path, admin) = (lb.path(), lb.admin.to_string());
    let path = path.to_str().unwrap();
    let config = lb.api("/api/config")["config"]["pool"].clone();
    assert_eq!(config[0]["balance"]["sticky"]["cookie"], "${COOKIE}", "{config:#}");
    assert_eq!(config[1]["balance"]["sticky"], "${STICKY}", "{config:#}");
    assert_eq!(lb.api("/api/pools")["pools"][0]["sticky"]["cookie"], "${COOKIE}");

    // The routes are those of the balancer, whatever the environment of the command is.
    for variables in [&env[..], &elsewhere, &[]] {
        let explain = |host: &str| run(variables, &["explain", "/", "--host", host, "--admin", &admin]).out;
        assert!(explain("s3cr3t.example").contains("\npool p: weighted"), "{}", explain("s3cr3t.example"));
        let other = explain("h");
        assert!(other.contains("\npool default: ") && other.contains("a cookie `${COOKIE}` goes"), "{other}");
        let json = run(variables, &["explain", "/", "--json", "--host", "h", "--admin", &admin]).out;
        assert!(json.contains("\"cookie\": \"${COOKIE}\"") && !json.contains("s3cr3t"), "{json}");
    }
    let new = lb.path().with_file_name("new.toml");
    let text = fs::read_to_string(path).unwrap();
    fs::write(&new, text.replace("[balance]", "[timeouts]\ndrain = \"9s\"\n[balance]")).unwrap();
    for variables in [&env, &elsewhere] {
        let plan = run(variables, &["plan", new.to_str().unwrap(), "--admin", &admin, "--format", "json"]);
        let plan: Value = serde_json::from_str(&plan.out).expect("JSON");
        assert_eq!(plan["changes"], json!(["timeouts.drain: 30s -> 9s"]), "{plan:#}");
    }

    let ran = run(&env, &["--config", path, "server", "weight", "s3cr3t", "5"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "server p/${NAME}: weight 1 -> 5\n"), "{ran:#?}");
    lb.reaches(2);
    lb.apply(&base);
    let changes = lb.newest_reload()["changes"].to_string();
    assert!(changes.contains("route ${ROUTE}/: removed") && changes.contains("server p/${NAME}: removed"), "{changes}");
    assert!(!lb.api("/api/reloads").to_string().contains("s3cr3t"));
}

#[test]
fn a_pending_edit_does_not_show_a_name_from_the_environment() {
    let server = Server::named("a");
    let lb = start(&[("HOST", "s3cr3t.invalid")], &format!("{NO_CHECKS}{}", server.table("a")));
    let before = lb.newest_reload();
    let new = "[[server]]\nname = \"b\"\naddress = \"${HOST}:80\"\n";
    lb.edit(&format!("{NO_CHECKS}{}{new}", server.table("a")));
    let pending = lb.next_reload(&before);
    let message = pending["problems"][0]["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("`${HOST}:80` cannot be resolved: "), "{pending:#}");
    assert_eq!(pending["outcome"], "pending");
    assert!(!shown(&lb).contains(SECRET));
}

#[test]
fn a_command_replaces_a_value_from_the_environment() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[server]]\nname = \"a\"\naddress = \"a:1\"\n\
                [[server]]\nname = \"${NAME:-b}\"\naddress = \"a:2\"\nweight = \"${W:-3}\"\nenabled = \"${ON:-true}\"\n";
    fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    for (variables, arguments, out, to) in [
        (&[("W", "5")][..], ["weight", "b", "5"], "server default/b: weight ${W:-3} -> 5\n", "weight = 5\n"),
        (&[("W", "5")], ["weight", "b", "7"], "server default/b: weight ${W:-3} -> 7\n", "weight = 7\n"),
        (
            &[],
            ["weight", "b", "3"],
            "server b: the value is as before, but no longer from the environment\n",
            "weight = 3\n",
        ),
        (&[], ["weight", "b", "4"], "server default/b: weight 3 -> 4\n", "weight = 4\n"),
    ] {
        fs::write(&path, text).unwrap();
        let ran = run(variables, &["--config", file, "server", arguments[0], arguments[1], arguments[2]]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), out), "{ran:#?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text.replace("weight = \"${W:-3}\"\n", to));
    }
    let ran = run(&[("ON", "true")], &["--config", file, "server", "disable", "b"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "server default/b: disabled\n"), "{ran:#?}");
    assert!(fs::read_to_string(&path).unwrap().ends_with("enabled = false\n"));
}
