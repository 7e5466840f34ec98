//! A hand on the cluster in `KUBECONFIG`, by the commands that a person types.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A namespace of a test's own, under Pod Security `restricted`, with the claims
/// `models` and `data`. Deleted on drop, its volumes too.
pub struct Namespace {
    /// Its name.
    pub name: String,
    volumes: PathBuf,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Whether it ended with 0.
    pub ok: bool,
    /// Standard output, then standard error.
    pub text: String,
}

impl Namespace {
    /// Makes the namespace anew.
    pub fn create(name: &str) -> Result<Self> {
        ensure!(
            std::env::var_os("KUBECONFIG").is_some(),
            "these tests need a cluster: run `make cluster-up` and set KUBECONFIG as it says"
        );
        kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait=true"], None)?;
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
        });
        kubectl_ok(&["apply", "-f", "-"], Some(&manifest.to_string()))?;
        let volumes = std::env::temp_dir().join(format!("hearth-e2e-{name}"));
        let _ = std::fs::remove_dir_all(&volumes);
        let namespace = Self { name: name.to_owned(), volumes };
        for claim in ["models", "data"] {
            namespace.claim(claim)?;
        }
        Ok(namespace)
    }

    /// Makes a claim backed by a directory of this machine, writable by the workers.
    pub fn claim(&self, claim: &str) -> Result<()> {
        let directory = self.volume(claim);
        std::fs::create_dir_all(&directory)?;
        let script = root().join("tests/cluster/volume.sh");
        let done = Command::new(script).args([&self.name, claim]).arg(&directory).output()?;
        ensure!(done.status.success(), "volume.sh: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// The directory of this machine behind a claim.
    pub fn volume(&self, claim: &str) -> PathBuf {
        self.volumes.join(claim)
    }

    /// `kubectl -n NAMESPACE …`; an error where it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl_ok(&[&["-n", &self.name], arguments].concat(), None)
    }

    /// `kubectl apply`, whatever comes of it.
    pub fn try_apply(&self, manifest: &str) -> Result<Said> {
        kubectl(&["-n", &self.name, "apply", "-f", "-"], Some(manifest))
    }

    /// `kubectl apply` that must succeed.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        kubectl_ok(&["-n", &self.name, "apply", "-f", "-"], Some(manifest)).map(drop)
    }

    /// What `kubectl diff` says of a manifest; nothing where it is what is there.
    pub fn diff(&self, manifest: &str) -> Result<String> {
        Ok(kubectl(&["-n", &self.name, "diff", "-f", "-"], Some(manifest))?.text)
    }

    /// One object as JSON.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", kind, name, "-o", "json"])?)?)
    }

    /// Objects of a kind with a label, as JSON.
    pub fn list(&self, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", kind, "-l", selector, "-o", "json"])?;
        let mut list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Follows an object until `done` is true of it. On a time-out the error shows
    /// what `kubectl describe` shows.
    pub fn wait(
        &self,
        kind: &str,
        name: &str,
        limit: Duration,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + limit;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Some(found) = self.follow(kind, name, left, &done)? {
                return Ok(found);
            }
            // Not there yet, or the watch broke off.
            std::thread::park_timeout(Duration::from_millis(250));
        }
        let told = self.kubectl(&["describe", kind, name]).unwrap_or_default();
        bail!("{kind} {name} in {}: not within {limit:?}:\n{told}", self.name)
    }

    /// One `kubectl get --watch`, which asks once instead of several times a second.
    fn follow(
        &self,
        kind: &str,
        name: &str,
        limit: Duration,
        done: &impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>> {
        let mut watch = Command::new("kubectl")
            .args(["-n", &self.name, "get", kind, name, "--watch", "-o", "json"])
            .arg(format!("--request-timeout={}s", limit.as_secs().max(1)))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start kubectl")?;
        let output = watch.stdout.take().context("kubectl has no output")?;
        let seen = serde_json::Deserializer::from_reader(std::io::BufReader::new(output));
        let found = seen.into_iter::<Value>().map_while(std::result::Result::ok).find(done);
        watch.kill()?;
        watch.wait()?;
        Ok(found)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["trainingjobs,modeldeployments,jobs,pods", "events"] {
                let told = self.kubectl(&["get", what, "-o", "wide"]).unwrap_or_default();
                write_error(&told);
            }
        }
        // Not waited for: pods have their grace period, and the next test its own namespace.
        let gone = ["delete", "namespace", &self.name, "--wait=false"];
        if let Err(error) = kubectl(&gone, None) {
            write_error(&format!("{error:#}"));
        }
        let _ = std::fs::remove_dir_all(&self.volumes);
    }
}

fn write_error(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The status of a condition, `""` where it is not set.
pub fn condition<'a>(object: &'a Value, type_: &str) -> &'a str {
    find_condition(object, type_).and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// The reason of a condition, `""` where it is not set.
pub fn reason<'a>(object: &'a Value, type_: &str) -> &'a str {
    find_condition(object, type_).and_then(|c| c["reason"].as_str()).unwrap_or_default()
}

/// `reason: message` of a condition.
pub fn told(object: &Value, type_: &str) -> String {
    find_condition(object, type_).map_or_else(String::new, |c| {
        format!(
            "{}: {}",
            c["reason"].as_str().unwrap_or_default(),
            c["message"].as_str().unwrap_or_default()
        )
    })
}

fn find_condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_)
}

/// Asks four times a second until `done` is true of the answer.
pub fn await_value<T: std::fmt::Debug>(
    limit: Duration,
    mut ask: impl FnMut() -> Result<T>,
    done: &impl Fn(&T) -> bool,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let answer = ask();
        match answer {
            Ok(value) if done(&value) => return Ok(value),
            Ok(value) if Instant::now() > end => {
                bail!("not within {limit:?}; last seen: {value:?}")
            }
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("not within {limit:?}")));
            }
            Ok(_) | Err(_) => std::thread::park_timeout(Duration::from_millis(250)),
        }
    }
}

/// Runs kubectl.
pub fn kubectl(arguments: &[&str], input: Option<&str>) -> Result<Said> {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().context("cannot start kubectl")?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        use std::io::Write as _;
        pipe.write_all(text.as_bytes())?;
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let text = [stdout, stderr].concat();
    Ok(Said { ok: status.success(), text: String::from_utf8_lossy(&text).into_owned() })
}

/// Runs kubectl; its output where it succeeds, an error that holds it where not.
pub fn kubectl_ok(arguments: &[&str], input: Option<&str>) -> Result<String> {
    let said = kubectl(arguments, input)?;
    ensure!(said.ok, "kubectl {}: {}", arguments.join(" "), said.text);
    Ok(said.text)
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A way from this machine to a Service, while this lives.
pub struct Way {
    forward: Option<std::process::Child>,
    /// `ADDRESS:PORT`.
    pub address: String,
}

impl Way {
    /// Straight to the Service's cluster address where this machine routes there, as
    /// the one of tests/cluster does; by `kubectl port-forward` otherwise.
    pub fn open(namespace: &Namespace, service: &str, port: u16) -> Result<Self> {
        let object = namespace.get("service", service)?;
        let ip = object["spec"]["clusterIP"].as_str().context("no cluster address")?;
        let address = format!("{ip}:{port}");
        let reached =
            std::net::TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(2));
        match reached {
            Ok(_) => Ok(Self { forward: None, address }),
            Err(_) => Self::forward(namespace, service, port),
        }
    }

    fn forward(namespace: &Namespace, service: &str, port: u16) -> Result<Self> {
        use std::io::BufRead as _;
        let mut child = Command::new("kubectl")
            .args(["-n", &namespace.name, "port-forward", &format!("service/{service}")])
            .arg(format!(":{port}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = child.stdout.take().context("no output of kubectl port-forward")?;
        let mut lines = std::io::BufReader::new(pipe);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let address = line
            .split_whitespace()
            .find(|word| word.starts_with("127.0.0.1:"))
            .with_context(|| format!("kubectl port-forward service/{service} said {line:?}"))?
            .to_owned();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut lines, &mut std::io::sink());
        });
        Ok(Self { forward: Some(child), address })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(child) = &mut self.forward {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
