//! What is sent for one job: its creation, and what follows in a replay.

use std::path::Path;

use anyhow::Context as _;
use http::{Method, Request};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

const NAME: &str = "@NAME@";
const UID: &str = "@UID@";

/// A request with `@NAME@` and `@UID@` where those of a job belong.
#[derive(Debug, Deserialize)]
struct Step {
    method: String,
    path: String,
    content_type: String,
    body: String,
}

impl Step {
    async fn send(&self, client: &Client, name: &str, uid: &str) -> anyhow::Result<Value> {
        let fill = |text: &str| text.replace(NAME, name).replace(UID, uid);
        let request = Request::builder()
            .method(Method::from_bytes(self.method.as_bytes())?)
            .uri(fill(&self.path))
            .header("content-type", &self.content_type)
            .body(fill(&self.body).into_bytes())?;
        let sent = client.request(request).await;
        sent.with_context(|| format!("{} {}", self.method, fill(&self.path)))
    }
}

/// All requests of one job, in order.
pub(crate) struct Script {
    create: Step,
    follow: Vec<Step>,
}

impl Script {
    /// Reads the job and the requests after its creation.
    pub(crate) fn read(path: &str, template: &Path, replay: Option<&Path>) -> anyhow::Result<Self> {
        let create = Step {
            method: "POST".into(),
            path: path.into(),
            content_type: "application/json".into(),
            body: text(template)?,
        };
        let follow = replay.map_or(Ok(Vec::new()), |file| {
            serde_json::from_str(&text(file)?).with_context(|| file.display().to_string())
        })?;
        Ok(Self { create, follow })
    }

    /// Sends them for the job of this name.
    pub(crate) async fn play(&self, client: &Client, name: &str) -> anyhow::Result<()> {
        let created = self.create.send(client, name, "").await?;
        let uid = created["metadata"]["uid"].as_str().context("an object without a UID")?;
        for step in &self.follow {
            step.send(client, name, uid).await?;
        }
        Ok(())
    }
}

fn text(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}
