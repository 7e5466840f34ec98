//! `hearth promote`, `pause`, `resume`, `rollback`, `retry`: what a person says about a rollout.

use hearth_crds::ModelDeployment;
use hearth_crds::names::ANNOTATION_ORDER;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::args::RolloutArgs;
use crate::watch::{WatchError, model_deployment};
use crate::{display, exit};

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The next step.
    Promote,
    /// All steps.
    PromoteFully,
    /// No further.
    Pause,
    /// Go on.
    Resume,
    /// Back to the old revision.
    Rollback,
    /// Once more.
    Retry,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Promote | Self::PromoteFully => "promote",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Rollback => "rollback",
            Self::Retry => "retry",
        }
    }
}

/// The order to write, and what will come of it; or why there is none.
fn order(
    deployment: &ModelDeployment,
    verb: Verb,
    now: jiff::Timestamp,
) -> Result<(String, String), String> {
    let status = deployment.status.clone().unwrap_or_default();
    let name = deployment.name_any();
    if verb == Verb::Retry {
        let rejected = status.rejected.ok_or_else(|| {
            format!("no revision of {name} was sent back: there is nothing to try again")
        })?;
        let revision = rejected.revision;
        return Ok((
            format!("retry {revision} {now}"),
            format!("revision {revision} is tried again, from its first step"),
        ));
    }
    let (Some(canary), Some(rollout)) = (status.canary, status.rollout) else {
        return Err(format!(
            "no new revision of {name} is being tried: `kubectl describe modeldeployment {name}` says how it stands"
        ));
    };
    let (revision, at) = (canary.revision, format!("step {} of {}", rollout.step, rollout.steps));
    let last = rollout.step >= rollout.steps;
    let (argument, said) = match verb {
        Verb::Promote if last => (
            format!(" {}", rollout.step - 1),
            format!("revision {revision} takes over: this was its last step"),
        ),
        Verb::Promote => (
            format!(" {}", rollout.step - 1),
            format!("revision {revision} goes on to step {}", rollout.step + 1),
        ),
        Verb::PromoteFully => (String::new(), format!("revision {revision} takes over")),
        Verb::Pause => (String::new(), format!("revision {revision} stays at {at}")),
        Verb::Resume => (String::new(), format!("revision {revision} goes on from {at}")),
        Verb::Rollback | Verb::Retry => (
            String::new(),
            format!("revision {revision} is sent back; the old one gets all traffic"),
        ),
    };
    Ok((format!("{} {revision}{argument}", verb.as_str()), said))
}

/// Writes the order; the process's exit code.
pub async fn run(args: &RolloutArgs, verb: Verb) -> i32 {
    match write(args, verb).await {
        Ok(said) => {
            display::out(&said);
            exit::DONE
        }
        Err(why) => {
            display::err(&format!("hearth {}: {why}", verb.as_str()));
            exit::FAILED
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a user's own order, under the user's own rights")]
async fn write(args: &RolloutArgs, verb: Verb) -> Result<String, String> {
    let said = |error: WatchError| error.to_string();
    let (client, deployment) =
        model_deployment(&args.name, args.namespace.as_deref(), args.context.as_ref())
            .await
            .map_err(said)?;
    let (order, said) = order(&deployment, verb, jiff::Zoned::now().timestamp())?;
    let namespace = deployment.namespace().unwrap_or_default();
    let api: Api<ModelDeployment> = Api::namespaced(client, &namespace);
    let patch = json!({"metadata": {"annotations": {ANNOTATION_ORDER: order}}});
    let written = api.patch(&args.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    written.map_err(|error| {
        format!(
            "cannot write the annotation {ANNOTATION_ORDER} of ModelDeployment {:?}: {error}. It takes the verb patch on modeldeployments.hearth.dev",
            args.name
        )
    })?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(status: &serde_json::Value) -> Box<ModelDeployment> {
        serde_json::from_value(json!({
            "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "spam"}, "spec": {"model": {"fromTrainingJob": "spam"}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn an_order_names_revision_and_step() {
        let at = |step: i32| {
            deployment(&json!({"canary": {"revision": "r2"},
                "rollout": {"step": step, "steps": 3, "since": "2026-01-01T00:00:00Z"}}))
        };
        let back = deployment(&json!({"rejected": {"revision": "r2", "reason": "TooSlow",
            "message": "m", "at": "2026-01-01T00:00:00Z"}}));
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        for (deployment, verb, want, said) in [
            (at(1), Verb::Promote, "promote r2 0", "goes on to step 2"),
            (at(3), Verb::Promote, "promote r2 2", "this was its last step"),
            (at(1), Verb::PromoteFully, "promote r2", "takes over"),
            (at(2), Verb::Pause, "pause r2", "stays at step 2 of 3"),
            (at(2), Verb::Resume, "resume r2", "goes on from step 2 of 3"),
            (at(2), Verb::Rollback, "rollback r2", "the old one gets all traffic"),
            (back.clone(), Verb::Retry, "retry r2 2026-01-02T00:00:00Z", "tried again"),
        ] {
            let (order, told) = order(&deployment, verb, now).unwrap();
            assert_eq!(order, want);
            assert!(told.contains(said), "{told}");
        }
        assert!(order(&back, Verb::Pause, now).unwrap_err().contains("no new revision"));
        assert!(order(&at(1), Verb::Retry, now).unwrap_err().contains("nothing to try again"));
    }
}
