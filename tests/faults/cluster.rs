//! A hand on the API server itself, not through the proxy: one namespace.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http::{Method, Request};
use kube::{Client, Config};
use serde_json::{Value, json};

/// One namespace, and the client of who tests.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

/// A client of the API server in `KUBECONFIG`.
pub(crate) async fn client() -> Result<Client> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = Config::infer().await.context("run tests/faults/run.sh: it starts a cluster")?;
    Ok(Client::try_from(config)?)
}

impl Cluster {
    /// A new namespace with the claims `models` and `data`.
    pub(crate) async fn create(client: Client, namespace: String) -> Result<Self> {
        let cluster = Self { client, namespace };
        let named = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace}});
        cluster.call(Method::POST, "/api/v1/namespaces", Some(&named)).await?;
        for claim in ["models", "data"] {
            let claim = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim},
                "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "",
                         "resources": {"requests": {"storage": "1Gi"}}},
            });
            cluster.create_object("persistentvolumeclaims", &claim).await?;
        }
        // Without it, no pod is let in.
        while cluster.get("serviceaccounts", "default").await?.is_null() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(cluster)
    }

    /// The path of a kind of objects in this namespace.
    pub(crate) fn path(&self, plural: &str) -> String {
        let group = match plural {
            "trainingjobs" | "hyperparamsweeps" | "modeldeployments" => "apis/hearth.dev/v1alpha1",
            "jobs" => "apis/batch/v1",
            "deployments" => "apis/apps/v1",
            "networkpolicies" => "apis/networking.k8s.io/v1",
            "poddisruptionbudgets" => "apis/policy/v1",
            "roles" | "rolebindings" => "apis/rbac.authorization.k8s.io/v1",
            _ => "api/v1",
        };
        format!("/{group}/namespaces/{}/{plural}", self.namespace)
    }

    pub(crate) async fn create_object(&self, plural: &str, object: &Value) -> Result<Value> {
        self.call(Method::POST, &self.path(plural), Some(object)).await
    }

    /// An object; `null` where there is none.
    pub(crate) async fn get(&self, plural: &str, name: &str) -> Result<Value> {
        let path = format!("{}/{name}", self.path(plural));
        match self.call(Method::GET, &path, None).await {
            Err(error) if is_missing(&error) => Ok(Value::Null),
            answer => answer,
        }
    }

    pub(crate) async fn list(&self, plural: &str) -> Result<Vec<Value>> {
        // The server's watch cache answers: cheap, and a moment old.
        let path = format!("{}?resourceVersion=0", self.path(plural));
        let mut list = self.call(Method::GET, &path, None).await?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// A merge patch of an object or of its status; nothing happens where it is gone.
    pub(crate) async fn patch(&self, plural: &str, name: &str, change: &Value) -> Result<()> {
        let path = format!("{}/{name}", self.path(plural));
        match self.call(Method::PATCH, &path, Some(change)).await {
            Err(error) if is_missing(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    pub(crate) async fn delete(&self, plural: &str, name: &str) -> Result<()> {
        let path = format!("{}/{name}?propagationPolicy=Background", self.path(plural));
        match self.call(Method::DELETE, &path, None).await {
            Err(error) if is_missing(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let kind = if method == Method::PATCH { "merge-patch+json" } else { "json" };
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header("content-type", format!("application/{kind}"))
            .body(body.map(Value::to_string).unwrap_or_default().into_bytes())?;
        self.client.request(request).await.with_context(|| format!("{method} {path}"))
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let found = error.downcast_ref::<kube::Error>();
    matches!(found, Some(kube::Error::Api(status)) if status.code == 404)
}

/// Tries until `found` says something, at most for `limit`.
pub(crate) async fn until<T, F>(
    limit: Duration,
    what: &str,
    mut found: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let end = tokio::time::Instant::now() + limit;
    loop {
        if let Some(found) = found().await? {
            return Ok(found);
        }
        if tokio::time::Instant::now() > end {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
