"""What LightGBM and scikit-learn say of small tables: worker/tabular/tests/it/parity/, which
worker/tabular/tests/it/parity.rs compares with.

    python tables.py             compare with the fixtures
    python tables.py --write     write the fixtures anew

Every expected value comes from lightgbm, scikit-learn and scipy as pinned in requirements.txt.
"""

import argparse
import json
import math
import pathlib
import sys

import lightgbm
import numpy
import scipy.optimize
import scipy.special
import sklearn.isotonic
import sklearn.metrics

HERE = pathlib.Path(__file__).parent.parent.parent / "worker/tabular/tests/it/parity"
ROWS, SHOWN = 600, 40


def rows(seed):
    """Two numbers, one of them sometimes missing, and a category of six."""
    random = numpy.random.default_rng(seed)
    x, y = random.normal(size=ROWS), random.normal(size=ROWS)
    category = random.integers(0, 6, size=ROWS).astype(float)
    risk = x + 0.5 * y * (category % 2) + 1.5 * numpy.isin(category, [1, 3, 4]) + random.normal(scale=0.5, size=ROWS)
    x[random.random(ROWS) < 0.05] = numpy.nan
    return numpy.column_stack([x, y, category]), risk


def model(task, values, risk):
    labels = {
        "binary": (risk > 0.5).astype(int),
        "multiclass": numpy.digitize(risk, [-0.5, 0.7]),
        "regression": risk,
    }[task]
    parameters = {
        "objective": task, "num_leaves": 7, "learning_rate": 0.2, "min_data_in_leaf": 10,
        "min_data_per_group": 5, "cat_smooth": 1.0, "max_cat_to_onehot": 1,
        "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbosity": -1,
    }
    if task == "multiclass":
        parameters["num_class"] = 3
    data = lightgbm.Dataset(values, labels, categorical_feature=[2], feature_name=["x", "y", "category"])
    return lightgbm.train(parameters, data, num_boost_round=8), labels


def platt(scores, labels):
    """Parameters of least loss, with the targets of Lin, Lin & Weng."""
    odds = scipy.special.logit(scores)
    positive = labels.sum()
    target = numpy.where(labels == 1, (positive + 1) / (positive + 2), 1 / (len(labels) - positive + 2))
    def loss(ab):
        value = ab[0] * odds + ab[1]
        return numpy.sum(numpy.logaddexp(0, -value) + (1 - target) * value)
    def slope(ab):
        off = scipy.special.expit(ab[0] * odds + ab[1]) - target
        return numpy.array([off @ odds, off.sum()])
    found = scipy.optimize.root(slope, [1.0, 0.0], tol=1e-14)
    assert numpy.abs(slope(found.x)).max() < 1e-9 and loss(found.x) <= loss([1.0, 0.0]), found
    return scipy.special.expit(found.x[0] * odds + found.x[1])


def metrics(scores, labels):
    return {
        "rocAuc": sklearn.metrics.roc_auc_score(labels, scores),
        "averagePrecision": sklearn.metrics.average_precision_score(labels, scores),
        "brier": sklearn.metrics.brier_score_loss(labels, scores),
        "logLoss": sklearn.metrics.log_loss(labels, scores),
        "accuracy": sklearn.metrics.accuracy_score(labels, scores >= 0.5),
        "macroF1": sklearn.metrics.f1_score(labels, scores >= 0.5, average="macro"),
    }


def alike(text, other):
    """Whether numbers in both are within 1e-9 of one another: other CPUs round otherwise."""
    def close(one, two):
        if isinstance(one, dict):
            return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
        if isinstance(one, list):
            return len(one) == len(two) and all(map(close, one, two))
        if isinstance(one, float):
            return math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-9)
        return one == two
    return close(json.loads(text), json.loads(other))


def plain(value):
    """For JSON: lists, and None in place of NaN."""
    if isinstance(value, numpy.ndarray):
        return plain(value.tolist())
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def fixtures():
    files, expected = {}, {}
    values, risk = rows(1)
    others, other_risk = rows(2)
    for task in ["binary", "multiclass", "regression"]:
        booster, _ = model(task, values, risk)
        files[f"{task}.txt"] = booster.model_to_string()
        shown = others[:SHOWN]
        expected[task] = {
            "rows": plain(shown),
            "predictions": plain(booster.predict(shown)),
            "contributions": plain(booster.predict(shown, pred_contrib=True)),
        }
    booster, _ = model("binary", values, risk)
    scores, labels = booster.predict(others), (other_risk > 0.5).astype(int)
    # Ties, as trees of few leaves have them.
    scores = numpy.round(scores, 3)
    isotonic = sklearn.isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    grid = numpy.linspace(0.01, 0.99, 99)
    sigmoid = platt(scores, labels)
    expected["calibration"] = {
        "scores": plain(scores), "labels": plain(labels), "grid": plain(grid),
        "isotonic": plain(isotonic.predict(grid)), "sigmoid": plain(sigmoid),
        "metrics": metrics(scores, labels),
    }
    booster, labels = model("multiclass", values, risk)
    several = booster.predict(values)
    expected["several"] = {
        "probabilities": plain(several), "labels": plain(labels),
        "rocAuc": sklearn.metrics.roc_auc_score(labels, several, multi_class="ovr"),
        "logLoss": sklearn.metrics.log_loss(labels, several),
        "macroF1": sklearn.metrics.f1_score(labels, several.argmax(1), average="macro"),
        "brier": float(numpy.mean(numpy.sum((several - numpy.eye(3)[labels]) ** 2, axis=1))),
    }
    booster, labels = model("regression", values, risk)
    guess = booster.predict(others)
    expected["numbers"] = {
        "predictions": plain(guess), "truths": plain(other_risk),
        "rmse": sklearn.metrics.root_mean_squared_error(other_risk, guess),
        "mae": sklearn.metrics.mean_absolute_error(other_risk, guess),
        "r2": sklearn.metrics.r2_score(other_risk, guess),
    }
    files["expected.json"] = json.dumps(expected) + "\n"
    return files


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--write", action="store_true")
    write = arguments.parse_args().write
    HERE.mkdir(exist_ok=True)
    stale = []
    for name, text in fixtures().items():
        path = HERE / name
        if write:
            path.write_text(text)
        # The models themselves are LightGBM's choice among splits that are as good.
        elif name.endswith(".json") and not alike(path.read_text(), text):
            stale.append(name)
    if stale:
        sys.exit(f"other than what the reference gives now: {', '.join(stale)}")


if __name__ == "__main__":
    main()
