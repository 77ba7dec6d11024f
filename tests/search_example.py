"""A search whose true best is known: its trials are drawn, not trained. `python -m tests.search_example` writes its page."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from samebits.search.confirmation import Confirmation, Measured, confirm
from samebits.search.search_file import ParamValue, SearchFile
from samebits.search.trials import Trial

RATE = "recipes.lab.train.optimizer.learning_rate"
BATCH_SIZE = "recipes.lab.train.batch_size"
INITIALIZATION = "recipes.lab.model.initialization"
PARAMETERS = {
    RATE: {"low": 1e-4, "high": 0.1, "log": True},
    "recipes.lab.train.optimizer.momentum": {"low": 0.0, "high": 0.99},
    BATCH_SIZE: [4, 8, 16, 32, 64],
    INITIALIZATION: ["pytorch", "he"],
}
BASELINE: dict[str, ParamValue] = {RATE: 0.001, BATCH_SIZE: 4, INITIALIZATION: "pytorch"}
DEVIATION = 0.012  # of an accuracy, between seeds


def search_file(**changes: object) -> SearchFile:
    """Return the file of a search, with some keys changed."""
    values = {"name": "lab", "seed": 0, "num_trials": 40, "parallelism": 4, "sampler": "random"}
    values |= {"objective": "validation_accuracy", "parameters": PARAMETERS, "confirm": {"num_seeds": 5}}
    values |= {"fixed": {"recipes.lab.train.num_epochs": 4, "data.num_validation": 5000}}
    return SearchFile.model_validate(values | changes)


def accuracy(values: Mapping[str, ParamValue], random: np.random.Generator) -> float:
    """Return the accuracy of one training: the best learning rate is 0.002, he is better by 1 point."""
    values = BASELINE | values
    from_best = abs(math.log10(values[RATE] / 0.002))
    lost = 0.03 * from_best**1.5 + 0.01 * values[BATCH_SIZE] / 64 + 0.01 * (values[INITIALIZATION] == "pytorch")
    return float(0.62 - lost + random.normal(0, DEVIATION))


def measure(values: Mapping[str, ParamValue], seed: int) -> Measured:
    """Return the accuracies of a training with this seed."""
    random = np.random.default_rng([seed, len(values)])
    measured = accuracy(values, random)
    return Measured(measured, measured - 0.005 + float(random.normal(0, DEVIATION / 4)))


def trials(number: int) -> list[Trial]:
    """Return trials at random settings: high learning rates fail, and after ten trials poor ones are pruned."""
    random = np.random.default_rng(0)
    drawn = []
    for trial in range(number):
        values: dict[str, ParamValue] = {RATE: float(10 ** random.uniform(-4, -1))}
        values["recipes.lab.train.optimizer.momentum"] = float(random.uniform(0, 0.99))
        values[BATCH_SIZE] = int(random.choice(PARAMETERS[BATCH_SIZE]))
        values[INITIALIZATION] = str(random.choice(PARAMETERS[INITIALIZATION]))
        objective = accuracy(values, random)
        history = tuple(objective - each for each in (0.12, 0.05, 0.02, 0))
        commit = random.bytes(20).hex()
        if values[RATE] > 0.04:
            drawn.append(Trial(trial, values, "failed", None, (), None, ()))
        elif trial >= 10 and objective < 0.575:
            drawn.append(Trial(trial, values, "pruned", None, history[:2], random.bytes(32).hex(), ()))
        else:
            drawn.append(Trial(trial, values, "complete", objective, history, random.bytes(32).hex(), (commit,)))
    return drawn


def confirmed(file: SearchFile) -> Confirmation:
    """Return the confirmation of the winner of all trials."""
    found = confirm(file, trials(file.num_trials), measure)
    assert found is not None
    return found


if __name__ == "__main__":
    from samebits.reporting.search_page import search_page

    file = search_file()
    Path("search.html").write_text(search_page(file, trials(file.num_trials), confirmed(file)))
    print("page: search.html")
