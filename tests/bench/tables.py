"""How a model of a table does beside LightGBM for Python and a logistic regression, on the same split.

Rows are those that the job prepared. Figures follow from the order of scores alone, on all held-out rows:
area under the ROC curve, average precision, and recall and precision at the most false positives that
are allowed (0.8 %).
"""

import argparse
import json
import pathlib
import sys

import lightgbm
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

FALSE_POSITIVES = 0.008


def rows(directory, side):
    files = sorted((directory / side).glob("*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def encoded(frame, features):
    """Columns as numbers, as the model has them: a category is the number of its value."""
    columns = {}
    for feature in features:
        values = frame[feature["name"]]
        vocabulary = feature.get("vocabulary")
        if vocabulary is not None:
            known = {value: number for number, value in enumerate(vocabulary)}
            values = values.map(lambda value: known.get(value, len(known)), na_action="ignore")
        columns[feature["name"]] = values.astype(float)
    return pd.DataFrame(columns)


def figures(truth, scores):
    false_positives, recall, _ = roc_curve(truth, scores, drop_intermediate=False)
    at = np.searchsorted(false_positives, FALSE_POSITIVES, side="right") - 1
    positives, negatives = truth.sum(), (~truth).sum()
    found, wrong = recall[at] * positives, false_positives[at] * negatives
    return {
        "rocAuc": roc_auc_score(truth, scores),
        "averagePrecision": average_precision_score(truth, scores),
        "recall": recall[at],
        "precision": found / max(found + wrong, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="prepared rows")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="what the job exported")
    parser.add_argument("--out", type=pathlib.Path)
    asked = parser.parse_args()
    config = json.loads((asked.model / "config.json").read_text())
    features, label = config["features"], config["label"]
    train, held_out = rows(asked.data, "train"), rows(asked.data, "eval")
    truths = [frame[label].astype(str).str.lower() == "true" for frame in (train, held_out)]
    inputs = [encoded(frame, features) for frame in (train, held_out)]
    categories = [f["name"] for f in features if f.get("vocabulary") is not None]
    numbers = [f["name"] for f in features if f["name"] not in categories]

    told = {}
    ours = lightgbm.Booster(model_file=asked.model / "model.txt")
    told["Hearth"] = figures(truths[1], ours.predict(inputs[1].to_numpy()))
    trees = config["trees"]
    peer = lightgbm.LGBMClassifier(
        n_estimators=ours.num_trees(),
        num_leaves=trees["numLeaves"],
        learning_rate=trees["learningRate"],
        min_child_samples=trees["minChildSamples"],
        class_weight="balanced",
        random_state=0,
        verbosity=-1,
    )
    peer.fit(inputs[0], truths[0], categorical_feature=categories)
    told["LightGBM"] = figures(truths[1], peer.predict_proba(inputs[1])[:, 1])
    scaled = ColumnTransformer(
        [("numbers", StandardScaler(), numbers), ("categories", OneHotEncoder(handle_unknown="ignore"), categories)]
    )
    plain = make_pipeline(scaled, LogisticRegression(class_weight="balanced", max_iter=2000))
    plain.fit(inputs[0].fillna(0), truths[0])
    told["logistic regression"] = figures(truths[1], plain.predict_proba(inputs[1].fillna(0))[:, 1])

    print(f"{len(truths[1])} held-out rows, {int(truths[1].sum())} of them {label}")
    print(f"| | ROC AUC | average precision | recall at {FALSE_POSITIVES:.1%} false positives | precision there |")
    print("|-|-|-|-|-|")
    for name, of in told.items():
        print(f"| {name} | {of['rocAuc']:.3f} | {of['averagePrecision']:.3f} | {of['recall']:.1%} | {of['precision']:.1%} |")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
