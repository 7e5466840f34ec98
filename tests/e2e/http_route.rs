//! A controller of the Gateway API (Traefik) takes an HTTPRoute on, and a new revision takes over behind it.
//! By hand: `tests/setup/traefik.sh` builds the controller, which takes two cores ten minutes.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hearth_tests::cluster::{Namespace, await_value, condition, kubectl_ok, told};
use hearth_tests::http::{self, Answer};
use hearth_tests::tiny;
use serde_json::{Value, json};

use crate::support::{PATIENCE, fetched, under_load};

const NAMESPACE: &str = "e2e-http-route";
const HOST: &str = "shop.example.com";
const ASK: &str = r#"{"model": "shop", "input": "free money"}"#;

/// Ends with its value.
struct Controller(Child);

impl Controller {
    fn start(home: &Path, port: u16) -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(home.join("traefik"))
            .arg(format!("--entrypoints.web.address=127.0.0.1:{port}"))
            .args(["--providers.kubernetesgateway=true", "--log.level=INFO"])
            .args(["--providers.kubernetesgateway.statusaddress.hostname=localhost"])
            .args(["--global.checknewversion=false", "--global.sendanonymoususage=false"])
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(port: u16, host: &str) -> anyhow::Result<Answer> {
    let stream = http::connect(&format!("127.0.0.1:{port}"))?;
    let lines = ["Content-Type: application/json"];
    http::send(stream, http::request("POST", "/v1/embeddings", host, &lines, ASK))
}

/// A Gateway whose listener takes routes from these namespaces.
fn edge(port: u16, from: &str) -> String {
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "traefik"}, "spec": {"controllerName": "traefik.io/gateway-controller"},
    });
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"gatewayClassName": "traefik", "listeners": [{
            "name": "web", "protocol": "HTTP", "port": port,
            "allowedRoutes": {"namespaces": {"from": from}},
        }]},
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [class, gateway]}).to_string()
}

fn deployment(model: &str) -> String {
    json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "shop"},
        "spec": {
            "model": {"source": format!("pvc://models/{model}")},
            "routing": "HTTPRoute",
            "httpRoute": {
                "parentRefs": [{"name": "edge", "namespace": "default", "sectionName": "web"}],
                "hostnames": [HOST],
            },
            "gateway": {"requestTimeoutSeconds": 10},
            "serving": {"resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "50m"}}},
        },
    })
    .to_string()
}

fn wait(namespace: &Namespace, there: impl Fn(&Value) -> bool) -> Value {
    namespace.wait("modeldeployment", "shop", PATIENCE, there).unwrap()
}

#[test]
#[ignore = "by hand: building Traefik takes ten minutes"]
fn a_controller_takes_the_route_and_no_request_through_it_fails() {
    let home = fetched("traefik.sh");
    let namespace = Namespace::create(NAMESPACE).unwrap();
    for (name, seed) in [("one", 1), ("two", 2)] {
        tiny::write_model(&namespace.volume("models").join(name), seed).unwrap();
    }
    namespace.apply(&deployment("one")).unwrap();
    let without = wait(&namespace, |d| condition(d, "Routed") == "False");
    assert!(without["status"].to_string().contains("NoGatewayAPI"), "{without}");

    let types = home.join("gateway-api.yaml");
    let types = types.to_str().unwrap();
    kubectl_ok(&["apply", "--server-side", "-f", types], None).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    kubectl_ok(&["wait", "--for=condition=Established", "--timeout=60s", "-f", types], None)
        .unwrap();
    kubectl_ok(&["apply", "-f", "-"], Some(&edge(port, "All"))).unwrap();
    let _controller = Controller::start(&home, port);
    wait(&namespace, |d| condition(d, "Routed") == "True" && condition(d, "Ready") == "True");
    let answers = || Ok(ask(port, HOST).is_ok_and(|answer| answer.status == 200));
    await_value(PATIENCE, answers, &|answers| *answers).unwrap();
    assert_eq!(ask(port, "other.example.com").unwrap().status, 404);

    let first = namespace.get("modeldeployment", "shop").unwrap();
    let first = first["status"]["stable"]["revision"].as_str().unwrap().to_owned();
    let take_over = || {
        namespace.apply(&deployment("two")).unwrap();
        wait(&namespace, |d| {
            condition(d, "Ready") == "True"
                && condition(d, "Progressing") == "False"
                && d["status"]["stable"]["revision"] != first
        })
    };
    let (_, load) = under_load(|| ask(port, HOST), take_over);
    let sent = load.all_served();
    assert_eq!(load.revisions.len(), 2, "answers came from {:?}", load.revisions);
    println!("{sent} requests through Traefik while a revision took over, none failed");

    kubectl_ok(&["apply", "-f", "-"], Some(&edge(port, "Same"))).unwrap();
    let refused = wait(&namespace, |d| condition(d, "Routed") == "False");
    let told = told(&refused, "Routed");
    assert!(told.contains("NotAllowedByListeners: "), "{told}");
    kubectl_ok(&["delete", "gateway/edge", "gatewayclass/traefik", "--namespace", "default"], None)
        .unwrap();
    kubectl_ok(&["delete", "-f", types], None).unwrap();
}
