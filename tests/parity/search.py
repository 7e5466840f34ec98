"""What Optuna's TPE finds on functions whose minima are known: tests/parity/optuna.json,
which operator/src/sweep/search/regret.rs compares with.

    python -m venv optuna && optuna/bin/pip install optuna==5.0.0
    optuna/bin/python tests/parity/search.py > tests/parity/optuna.json

Each figure is the median over 30 seeds of the lowest value of 50 trials, less the minimum.
"""

import json
import math
import statistics
import sys

import optuna

SEEDS, TRIALS = 30, 50
HEIGHTS = [1.0, 1.2, 3.0, 3.2]
STEEPNESS = [
    [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
    [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
    [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
    [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
]
CENTRES = [
    [1312.0, 1696.0, 5569.0, 124.0, 8283.0, 5886.0],
    [2329.0, 4135.0, 8307.0, 3736.0, 1004.0, 9991.0],
    [2348.0, 1451.0, 3522.0, 2883.0, 3047.0, 6650.0],
    [4047.0, 8828.0, 8732.0, 5743.0, 1091.0, 381.0],
]


def branin(trial):
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    bowl = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return bowl * bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.397887


def hartmann6(trial):
    x = [trial.suggest_float(f"x{axis}", 0, 1) for axis in range(6)]

    def peak(height, steepness, centre):
        return height * math.exp(-sum(s * (at - c * 1e-4) ** 2 for s, at, c in zip(steepness, x, centre)))

    return 3.32237 - sum(map(peak, HEIGHTS, STEEPNESS, CENTRES))


def mixed(trial):
    optimizer = trial.suggest_categorical("optim", ["SGD", "AdamW", "Adafactor"])
    rate = math.log10(trial.suggest_float("rate", 1e-5, 1, log=True))
    layers = 0.05 * abs(trial.suggest_int("layers", 1, 8) - 5)
    if optimizer == "SGD":
        momentum = trial.suggest_float("momentum", 0, 0.99)
        return layers + 0.1 + 0.3 * (rate + 1.5) ** 2 + 2 * (momentum - 0.9) ** 2
    if optimizer == "AdamW":
        decay = math.log10(trial.suggest_float("decay", 1e-4, 1e-1, log=True))
        return layers + 0.25 * (rate + 3.2) ** 2 + 0.1 * (decay + 2.3) ** 2
    return layers + 0.3 + 0.2 * (rate + 3) ** 2


def lowest(function, seed):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(function, n_trials=TRIALS)
    return study.best_value


def main():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    regrets = {
        function.__name__: round(statistics.median(lowest(function, seed) for seed in range(SEEDS)), 6)
        for function in (branin, hartmann6, mixed)
    }
    json.dump({"optuna": optuna.__version__} | regrets, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
