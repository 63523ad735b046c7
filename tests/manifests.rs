//! `examples/kubernetes` and `examples/gitops`, as far as they can be tested without a cluster: they parse, their names
//! and ports agree with their `lb.toml`, and kustomize accepts them.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb::config::Config;
use lb::control::reload::source;
use saphyr_parser::{Event, Parser};
use serde_json::Value;

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

fn config() -> Config {
    source::load(&example("kubernetes/lb.toml"), &|_| None).result.unwrap()
}

/// The documents of a YAML file; every scalar is a string.
fn documents(text: &str) -> Vec<Value> {
    let events = Parser::new_from_str(text).map(|event| event.expect(text).0).collect::<Vec<_>>();
    let mut events = events.into_iter();
    let mut documents = Vec::new();
    while let Some(event) = events.next() {
        if let Event::DocumentStart(_) = event {
            let first = events.next().unwrap();
            documents.push(node(first, &mut events));
        }
    }
    documents
}

fn node<'a>(event: Event<'a>, events: &mut impl Iterator<Item = Event<'a>>) -> Value {
    match event {
        Event::Scalar(text, ..) => Value::String(text.into_owned()),
        Event::SequenceStart(..) => {
            let mut values = Vec::new();
            loop {
                match events.next().unwrap() {
                    Event::SequenceEnd => return Value::Array(values),
                    event => values.push(node(event, events)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut fields = serde_json::Map::new();
            loop {
                let key = match events.next().unwrap() {
                    Event::MappingEnd => return Value::Object(fields),
                    event => node(event, events),
                };
                let value = events.next().unwrap();
                let value = node(value, events);
                let before = fields.insert(key.as_str().unwrap().to_owned(), value);
                assert_eq!(before, None, "{key} twice");
            }
        }
        other => panic!("{other:?}"),
    }
}

fn read(path: &str) -> Vec<Value> {
    documents(&fs::read_to_string(example(path)).unwrap())
}

/// The entry of a list with this name.
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{name} in {list}"))
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_str().unwrap().parse().unwrap())
}

#[test]
fn the_deployment_agrees_with_the_configuration() {
    let (config, deployment) = (config(), read("kubernetes/deployment.yaml").remove(0));
    let spec = &deployment["spec"]["template"]["spec"];
    let container = named(&spec["containers"], "lb");
    let port = |name: &str| named(&container["ports"], name)["containerPort"].as_str().unwrap().to_owned();
    let [http, admin] = [&config.listeners[0].address, &config.admin.address].map(|address| address.ip().unwrap());
    assert_eq!(port("http"), http.port().to_string());
    assert_eq!(port("admin"), admin.port().to_string());
    assert!(admin.ip().is_unspecified(), "the kubelet connects to the address of the pod");
    // Not about the servers, which all replicas share.
    for probe in ["readinessProbe", "livenessProbe"] {
        let request = &container[probe]["httpGet"];
        assert_eq!((&request["path"], &request["port"]), (&"/health".into(), &"admin".into()));
    }
    assert!(deployment["spec"]["replicas"].as_str() > Some("1"));
    assert_eq!(deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"], port("admin"));

    // The directory is mounted, and `lb` reads the file in it.
    let mount = named(&container["volumeMounts"], "config");
    assert_eq!(mount["subPath"], Value::Null);
    let directory = mount["mountPath"].as_str().unwrap();
    assert_eq!(named(&container["env"], "LB_CONFIG")["value"], format!("{directory}/lb.toml"));
    let state = named(&container["volumeMounts"], "state")["mountPath"].as_str().unwrap();
    assert_eq!(config.reload.state_dir, Some(state.into()));
    assert_eq!(named(&container["env"], "LB_STATE_DIR")["value"], state);

    let before = &container["lifecycle"]["preStop"]["exec"]["command"];
    assert_eq!(before[0], "sleep");
    let grace = seconds(&spec["terminationGracePeriodSeconds"]);
    assert!(grace > seconds(&before[1]) + config.timeouts.drain, "{grace:?} is too short to drain");
}

#[test]
fn the_configmap_keeps_its_name_and_the_base_has_all_files() {
    let base = read("kubernetes/kustomization.yaml").remove(0);
    assert_eq!(base["generatorOptions"]["disableNameSuffixHash"], "true");
    let map = &base["configMapGenerator"][0];
    let deployment = read("kubernetes/deployment.yaml").remove(0);
    let volume = named(&deployment["spec"]["template"]["spec"]["volumes"], "config");
    assert_eq!((&map["name"], &map["files"][0]), (&volume["configMap"]["name"], &"lb.toml".into()));
    let mut listed: Vec<_> = base["resources"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    listed.extend(["kustomization.yaml", "lb.toml"]);
    let mut files: Vec<String> = fs::read_dir(example("kubernetes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    listed.sort_unstable();
    files.sort_unstable();
    assert_eq!(listed, files);
    let port = |service: &Value| service["spec"]["ports"][0]["targetPort"].as_str().unwrap().to_owned();
    assert_eq!(read("kubernetes/service.yaml").iter().map(port).collect::<Vec<_>>(), ["http", "admin"]);
}

#[test]
fn kustomize_accepts_the_base() {
    let output = match Command::new("kubectl").arg("kustomize").arg(example("kubernetes")).output() {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: kubectl: {error}"),
    };
    assert!(output.status.success(), "{output:#?}");
    let output = documents(&String::from_utf8(output.stdout).unwrap());
    let find = |kind: &str| output.iter().find(|one| one["kind"] == kind).unwrap_or_else(|| panic!("{kind}"));
    let map = find("ConfigMap");
    assert_eq!(map["metadata"]["name"], "lb");
    assert_eq!(map["data"]["lb.toml"], fs::read_to_string(example("kubernetes/lb.toml")).unwrap());
    let label = "app.kubernetes.io/name";
    for kind in ["Deployment", "PodDisruptionBudget"] {
        assert_eq!(find(kind)["spec"]["selector"]["matchLabels"][label], "lb", "{kind}");
    }
    assert_eq!(find("Service")["spec"]["selector"][label], "lb");
}

#[test]
fn the_workflow_runs_existing_scripts() {
    let workflow = read("gitops/workflow.yml").remove(0);
    let jobs = workflow["jobs"].as_object().unwrap();
    let steps = jobs.values().flat_map(|job| job["steps"].as_array().unwrap());
    let scripts: Vec<_> =
        steps.filter_map(|step| step["run"].as_str()?.strip_prefix("./")?.split(' ').next()).collect();
    assert_eq!(scripts, ["check.sh", "rollout.sh"]);
    for script in scripts {
        let mode = fs::metadata(example("gitops").join(script)).unwrap().permissions();
        assert_ne!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o111, 0, "{script} is not executable");
    }
}
