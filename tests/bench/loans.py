"""Trees and networks of ours on real rows, beside LightGBM for Python and a logistic regression.

Applications for mortgages (tests/setup/loans.sh), of which a quarter is judged and was seen by nobody
before; so five times, with other quarters. Ours hold a quarter of the rest out to say when to stop. So does
LightGBM once; then it learns as many trees as ours from all of the rest, as the logistic regression does.
Area under the ROC curve and average precision, as the mean over the five.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import urllib.request

import lightgbm
import numpy as np
import pandas as pd
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from served import serving

HERE = pathlib.Path(__file__).resolve().parent
LABEL = "reject"
TREES = {"nEstimators": 400, "numLeaves": 15, "learningRate": 0.03, "earlyStoppingRounds": 40}
# A smaller transformer than the paper's, for few rows.
NETWORKS = {
    "FTTransformer": {"architecture": "FTTransformer", "blocks": 2, "dToken": 64},
    "MLP": {"architecture": "MLP"},
}
# The paper's package's (docs/tables.md), but for smaller batches at a higher rate.
TRAINING = {
    "perDeviceTrainBatchSize": 128,
    "learningRate": 5.0e-4,
    "weightDecay": 1.0e-5,
    "lrSchedulerType": "Constant",
    "numTrainEpochs": 100,
    "evalStrategy": "Epoch",
    "earlyStoppingPatience": 16,
}


def learner(name, seed):
    """What a job has of a learner: `tabular` and `training`."""
    if name == "trees":
        return {"trees": TREES}, {"seed": seed}
    return {"neural": NETWORKS[name]}, {**TRAINING, "seed": seed}


def train(hearth, job, room, name, seed):
    """Runs the job, and gives the directory of its model."""
    job = json.loads(json.dumps(job))
    tabular, training = learner(name, seed)
    job["spec"]["tabular"].update(tabular)
    job["spec"]["training"] = training
    job["spec"]["output"]["destination"] = f"pvc://loans/{name}"
    path = room / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job))
    done = subprocess.run(
        [hearth, "run", path, "--volume", f"loans={room}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"the job of {name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return room / name / "model"


def asked(server, frame):
    """Probabilities that a server gives."""
    rows = [{key: value for key, value in row.items() if value is not None} for row in frame]
    body = json.dumps({"rows": rows}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/predict", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return [output["probabilities"]["1"] for output in json.load(answer)["outputs"]]


def booster(trees, seed):
    return lightgbm.LGBMClassifier(
        n_estimators=trees,
        num_leaves=TREES["numLeaves"],
        learning_rate=TREES["learningRate"],
        class_weight="balanced",
        random_state=seed,
        verbosity=-1,
    )


def stopped(rows, truth, categories, seed):
    """LightGBM that stops early, by a quarter of the rows."""
    split = StratifiedShuffleSplit(n_splits=1, test_size=0.25, random_state=seed)
    learned, held = next(split.split(rows, truth))
    return booster(TREES["nEstimators"], seed).fit(
        rows.iloc[learned], truth[learned], categorical_feature=categories,
        eval_X=rows.iloc[held], eval_y=truth[held], eval_metric="binary_logloss",
        callbacks=[lightgbm.early_stopping(TREES["earlyStoppingRounds"], verbose=False)],
    )


def figures(truth, scores):
    return roc_auc_score(truth, scores), average_precision_score(truth, scores)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=pathlib.Path, required=True, help="loans.csv")
    parser.add_argument("--worker", type=pathlib.Path, required=True)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path)
    asked_for = parser.parse_args()
    job = yaml.safe_load((HERE / "loans.yaml").read_text())
    left_out = job["spec"]["tabular"]["exclude"]
    categories = job["spec"]["tabular"]["categorical"]
    rows = pd.read_csv(asked_for.rows)
    truth = rows[LABEL].to_numpy()
    features = rows.drop(columns=[LABEL, *left_out, "msa"])
    numbers = [name for name in features if name not in categories]
    worker = types.SimpleNamespace(
        binary=asked_for.worker, environment=lambda threads: {**os.environ, "HEARTH_THREADS": str(threads)}
    )
    told = {}
    splits = StratifiedShuffleSplit(n_splits=asked_for.splits, test_size=0.25, random_state=0)
    for seed, (learned, judged) in enumerate(splits.split(features, truth)):
        with tempfile.TemporaryDirectory() as folder:
            room = pathlib.Path(folder)
            rows.iloc[learned].to_csv(room / "train.csv", index=False)
            # As a client has them: whole numbers stay whole, what is missing is left out.
            sent = json.loads(features.iloc[judged].to_json(orient="records"))
            for name in ("trees", *NETWORKS):
                model = train(asked_for.worker.parent / "hearth", job, room, name, seed)
                with serving(worker, model, 2, room) as server:
                    told.setdefault(f"Hearth, {name}", []).append(figures(truth[judged], asked(server, sent)))
            trees = lightgbm.Booster(model_file=room / "trees/model/model.txt").num_trees()
        known, other = features.iloc[learned], features.iloc[judged]
        for name, peer in {
            "LightGBM for Python, a quarter held out": stopped(known, truth[learned], categories, seed),
            "LightGBM for Python": booster(trees, seed).fit(known, truth[learned], categorical_feature=categories),
        }.items():
            scores = peer.predict_proba(other)[:, 1]
            told.setdefault(name, []).append(figures(truth[judged], scores))
        scaled = ColumnTransformer([
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
            ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
        ])
        plain = make_pipeline(scaled, LogisticRegression(class_weight="balanced", max_iter=2000))
        plain.fit(known, truth[learned])
        scores = plain.predict_proba(other)[:, 1]
        told.setdefault("logistic regression", []).append(figures(truth[judged], scores))

    print(f"{len(rows)} applications, {int(truth.sum())} of them refused; {asked_for.splits} splits")
    print("| | ROC AUC | average precision |")
    print("|-|-|-|")
    for name, of in told.items():
        (roc, precision), (apart, off) = np.mean(of, axis=0), np.std(of, axis=0)
        print(f"| {name} | {roc:.3f} ± {apart:.3f} | {precision:.3f} ± {off:.3f} |")
    if asked_for.out:
        asked_for.out.parent.mkdir(parents=True, exist_ok=True)
        asked_for.out.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
