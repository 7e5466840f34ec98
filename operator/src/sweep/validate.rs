//! Turns a HyperparamSweep into a [`ValidSweep`], or says everything that is wrong with it. Pure.

use hearth_crds::hyperparam_sweep::{
    AlgorithmType, HyperparamSweep, HyperparamSweepSpec, Parameter, Scale, When,
};
use hearth_crds::names;
use hearth_crds::training_arguments::IntervalStrategy;
use hearth_crds::training_job::{EvaluationMetric, Task};
use kube::ResourceExt;
use serde_json::Value;

use super::paths::{same, typed};
use super::search::Method;
use super::search::halving::Halving;
use super::search::space::{Condition, Dimension, Domain, Range, Space};
use crate::children::Parent;
use crate::fault::{Fault, SpecFaults};

/// Fields that belong to the sweep or to whoever runs it, not to the search.
const NOT_SEARCHED: [&str; 4] = ["suspend", "output", "stopAtStep", "stop"];
/// The last rung of ASHA is the same for all trials.
const RUNGS: [&str; 2] = ["training.maxSteps", "training.numTrainEpochs"];

/// A sweep that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidSweep {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The spec as it was written, defaults filled in.
    pub spec: HyperparamSweepSpec,
    /// The job of a trial before its parameters are set, as JSON.
    pub template: Value,
    /// The space, a dimension a parameter.
    pub space: Space,
    /// How it is searched.
    pub method: Method,
    /// The rungs of ASHA.
    pub ladder: Option<Halving>,
    /// Kueue's queue, where the sweep names one for its trials.
    pub queue: Option<String>,
}

impl ValidSweep {
    /// The sweep as the owner of trials.
    pub fn parent(&self) -> Parent {
        Parent {
            kind: "HyperparamSweep",
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// Name of a trial's job on a rung.
    pub fn job_name(&self, number: usize, rung: usize) -> String {
        let suffix = if rung == 0 { number.to_string() } else { format!("{number}-rung-{rung}") };
        names::child(&self.name, &suffix)
    }
}

/// Hash of what a sweep cannot change: the numbers of trials are left out.
pub fn spec_hash(spec: &HyperparamSweepSpec) -> String {
    names::digest(&(&spec.objective, &spec.algorithm, &spec.parameters, &spec.job))
}

/// The sweep as something that can be run, or everything wrong with it.
pub fn sweep(object: &HyperparamSweep) -> Result<ValidSweep, SpecFaults> {
    let spec = &object.spec;
    let mut faults = Vec::new();
    let method = match spec.algorithm.type_ {
        AlgorithmType::Grid => Method::Grid,
        AlgorithmType::Random | AlgorithmType::ASHA => Method::Random,
        AlgorithmType::Sobol => Method::Sobol,
        AlgorithmType::TPE => Method::Tpe,
    };
    let started = object.status.as_ref().and_then(|status| status.spec_hash.as_deref());
    if started.is_some_and(|hash| hash != spec_hash(spec)) {
        faults.push(Fault::invalid(
            "spec",
            "objective, algorithm, parameters and job are not those that the sweep started with",
            "restore them, or create another HyperparamSweep; trials may change",
        ));
    }
    faults.extend(metric_faults(spec));
    if spec.job.ttl_seconds_after_finished.is_some() {
        faults.push(Fault::invalid(
            "spec.job.ttlSecondsAfterFinished",
            "a search remembers by its trials' jobs",
            "remove it; deleting the sweep deletes its trials",
        ));
    }
    if spec.job.stop_at_step.is_some() {
        faults.push(Fault::invalid(
            "spec.job.stopAtStep",
            "where a trial stops is the sweep's to say",
            "remove it; algorithm ASHA stops trials at its rungs",
        ));
    }
    if spec.job.stop.is_some() {
        faults.push(Fault::invalid(
            "spec.job.stop",
            "no trial is begun to be stopped",
            "remove it; deleting the sweep ends its trials, and earlyStopping those that fall behind",
        ));
    }
    faults.extend(idle_stopping(spec));
    let ladder = spec.algorithm.asha.as_ref().map(|asha| Halving {
        first: asha.first_rung_steps.unsigned_abs(),
        last: spec.job.training.max_steps.unsigned_abs(),
        factor: asha.reduction_factor.unsigned_abs().into(),
    });
    if ladder.is_some() && spec.job.training.save_strategy == IntervalStrategy::No {
        faults.push(Fault::invalid(
            "spec.job.training.saveStrategy",
            "is No, and ASHA goes on from checkpoints",
            "set it to Steps or Epoch",
        ));
    }
    let template = serde_json::to_value(&spec.job).unwrap_or_default();
    let mut dimensions = Vec::new();
    for (index, parameter) in spec.parameters.iter().enumerate() {
        let field = format!("spec.parameters[{index}]");
        if ladder.is_some() && RUNGS.contains(&parameter.path.as_str()) {
            faults.push(Fault::invalid(
                format!("{field}.path"),
                format!("{} is the last rung of ASHA", parameter.path),
                "choose another field, or another algorithm",
            ));
        }
        match dimension(&spec.parameters[..index], parameter, &template) {
            Ok(dimension) => dimensions.push(dimension),
            Err((part, problem, fix)) => {
                faults.push(Fault::invalid(format!("{field}{part}"), problem, fix));
            }
        }
    }
    SpecFaults::unless_empty(faults, ())?;
    Ok(ValidSweep {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        spec: spec.clone(),
        template,
        space: Space::new(dimensions),
        method,
        ladder,
        queue: object.labels().get(names::LABEL_QUEUE).cloned(),
    })
}

/// A metric that would never come.
fn metric_faults(spec: &HyperparamSweepSpec) -> Vec<Fault> {
    let (metric, task) = (spec.objective.metric, spec.job.task);
    let mut faults = Vec::new();
    let tables = task.is_tabular();
    if tables && spec.job.data.eval.is_none() && spec.job.data.eval_split.is_none() {
        faults.push(Fault::invalid(
            "spec.job.data",
            format!("has no rows held out, so that {} is never measured", metric.as_str()),
            "set evalSplit or eval",
        ));
    }
    if !tables && spec.job.training.eval_strategy == IntervalStrategy::No {
        faults.push(Fault::invalid(
            "spec.job.training.evalStrategy",
            format!("is No, so that {} is never measured", metric.as_str()),
            "set it to Steps or Epoch",
        ));
    }
    let (has, others) = match task {
        Task::CausalLM => (metric == EvaluationMetric::Loss, "loss"),
        Task::TabularRegression => {
            (matches!(metric, EvaluationMetric::Loss | EvaluationMetric::R2), "loss or r2")
        }
        Task::TabularClassification => (
            metric != EvaluationMetric::R2,
            "loss, accuracy, f1, f1Macro, rocAuc or averagePrecision",
        ),
        Task::SequenceClassification | Task::ImageClassification => (
            !matches!(
                metric,
                EvaluationMetric::RocAuc
                    | EvaluationMetric::AveragePrecision
                    | EvaluationMetric::R2
            ),
            "loss, accuracy, f1 or f1Macro",
        ),
    };
    if !has {
        faults.push(Fault::invalid(
            "spec.objective.metric",
            format!("{task:?} has no {}", metric.as_str()),
            format!("use {others}"),
        ));
    }
    faults
}

/// What decides when a trial is evaluated, and when it ends.
const EVALUATIONS: [&str; 6] = [
    "training.maxSteps",
    "training.numTrainEpochs",
    "training.evalStrategy",
    "training.evalSteps",
    "training.loggingSteps",
    "training.evalDelay",
];

/// Early stopping where trials are not evaluated before their end.
fn idle_stopping(spec: &HyperparamSweepSpec) -> Option<Fault> {
    spec.early_stopping.as_ref()?;
    if spec.parameters.iter().any(|parameter| EVALUATIONS.contains(&parameter.path.as_str())) {
        return None;
    }
    let training = &spec.job.training;
    let (last, every) = (training.max_steps, training.eval_interval());
    let first = (training.eval_delay / every as f64).ceil().max(1.0) * every as f64;
    let fault = |field: &str, problem: String, fix: &str| Some(Fault::invalid(field, problem, fix));
    match training.eval_strategy {
        IntervalStrategy::Steps if last > 0 && first >= last as f64 => fault(
            "spec.job.training.evalSteps",
            format!(
                "the first evaluation is after step {first}, and training ends with step {last}: earlyStopping has nothing to judge by"
            ),
            "set it to a tenth of maxSteps or so, or remove earlyStopping",
        ),
        IntervalStrategy::Epoch
            if last <= 0 && training.num_train_epochs <= training.eval_delay.max(1.0) =>
        {
            fault(
                "spec.job.training.evalStrategy",
                "is Epoch, and the first evaluation ends the training: earlyStopping has nothing to judge by".into(),
                "set it to Steps, with evalSteps, or raise numTrainEpochs, or remove earlyStopping",
            )
        }
        IntervalStrategy::No | IntervalStrategy::Steps | IntervalStrategy::Epoch => None,
    }
}

/// Part of the field, what is wrong, what to do.
type Wrong = (&'static str, String, &'static str);

fn dimension(
    before: &[Parameter],
    parameter: &Parameter,
    template: &Value,
) -> Result<Dimension, Wrong> {
    let path = &parameter.path;
    let first = path.split('.').next().unwrap_or_default();
    if NOT_SEARCHED.contains(&first) {
        return Err((
            ".path",
            format!("{path} is not the search's to set"),
            "choose another field",
        ));
    }
    if before.iter().any(|other| other.path == *path) {
        return Err((".path", format!("{path} is there twice"), "remove one of the two"));
    }
    let domain = domain(parameter)?;
    let (part, tried) = match &domain {
        Domain::Choices(values) => (".values", values.clone()),
        Domain::Range(_) => (
            ".range",
            [0.0, 0.5, 1.0].iter().filter_map(|share| domain.value(domain.at(*share))).collect(),
        ),
    };
    for value in tried {
        typed(template, path, &value).map_err(|why| {
            (
                part,
                format!("{path} cannot be {value}: {why}"),
                "see `kubectl explain trainingjob.spec`; whole numbers need range.integer",
            )
        })?;
    }
    let when = parameter.when.as_ref().map(|when| condition(before, when)).transpose()?;
    Ok(Dimension { domain, when })
}

fn domain(parameter: &Parameter) -> Result<Domain, Wrong> {
    match (&parameter.values, &parameter.range) {
        (Some(values), None) => {
            Ok(Domain::Choices(values.iter().map(|value| value.0.clone()).collect()))
        }
        (None, Some(range)) => {
            let log = range.scale == Scale::Log;
            // A whole number from 1 has an interval around it that begins at 0.5.
            if !(range.min < range.max && range.min.is_finite() && range.max.is_finite()) {
                return Err((".range", "min is not below max".to_owned(), "raise max"));
            }
            if log && range.min <= 0.0 {
                return Err((
                    ".range.min",
                    "a Log scale has no 0 and nothing below it".to_owned(),
                    "raise min above 0, or use scale Linear",
                ));
            }
            if range.integer && (range.min.fract() != 0.0 || range.max.fract() != 0.0) {
                return Err((
                    ".range",
                    "ends of whole numbers are not whole".to_owned(),
                    "round min and max, or set integer to false",
                ));
            }
            Ok(Domain::Range(Range { min: range.min, max: range.max, log, integer: range.integer }))
        }
        _ => Err(("", "has not one of values and range".to_owned(), "set one of the two")),
    }
}

fn condition(before: &[Parameter], when: &When) -> Result<Condition, Wrong> {
    let named = before.iter().position(|other| other.path == when.path);
    let Some((dimension, values)) =
        named.and_then(|index| Some((index, before[index].values.as_ref()?)))
    else {
        return Err((
            ".when.path",
            format!("no earlier parameter with values has the path {}", when.path),
            "put that parameter before this one",
        ));
    };
    let place = |wanted: &Value| values.iter().position(|value| same(&value.0, wanted));
    let mut choices = Vec::new();
    for value in &when.values {
        match place(&value.0) {
            Some(choice) => choices.push(choice),
            None => {
                return Err((
                    ".when.values",
                    format!("{} is not among the values of {}", value.0, when.path),
                    "name one of them",
                ));
            }
        }
    }
    Ok(Condition { dimension, choices })
}
