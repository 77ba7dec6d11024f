"""Proposals are a function of the search file and of the trials that they may know."""

import math
import random
from typing import Any

import pytest

from samebits.search.proposals import Proposals, num_known
from samebits.search.search_file import SearchFile
from samebits.search.trials import Trial, digest, winner

PARAMETERS = {
    "recipes.lab.train.optimizer.learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "recipes.lab.train.optimizer.momentum": {"low": 0.0, "high": 0.9, "step": 0.3},
    "recipes.lab.train.batch_size": {"low": 1, "high": 64, "log": True},
    "recipes.lab.train.schedule": [None, {"name": "cosine", "warmup_num_epochs": 0}],
}
GRID = {**PARAMETERS, "recipes.lab.train.optimizer.learning_rate": [0.1, 0.01], "recipes.lab.train.batch_size": [4, 8]}


def search(sampler: str, **others: Any) -> SearchFile:
    values = {
        "name": "lr",
        "seed": 3,
        "num_trials": 16,
        "parallelism": 4,
        "sampler": sampler,
        "objective": "validation_accuracy",
        "parameters": GRID if sampler == "grid" else PARAMETERS,
    }
    return SearchFile.model_validate(values | others)


def synthetic(number: int, values: dict[str, Any]) -> Trial:
    """A trial without a training: best at a learning rate of 0.01, and diverged at a high one."""
    rate = values["recipes.lab.train.optimizer.learning_rate"]
    if rate > 0.5:
        return Trial(number, values, "failed")
    score = -((math.log10(rate) + 2) ** 2) + values["recipes.lab.train.optimizer.momentum"]
    return Trial(number, values, "complete", score, (score,), f"{score:.17g}")


def run(file: SearchFile, num_workers: int, seed: int) -> dict[int, Trial]:
    """Let workers take trials in their order and end them in any order; each keeps proposals of its own."""
    draw = random.Random(seed)
    ended: dict[int, Trial] = {}
    workers = [Proposals(file, ended) for _ in range(num_workers)]
    running: dict[int, Trial] = {}
    numbers = iter(range(file.num_trials))
    coming = next(numbers)
    while len(ended) < file.num_trials:
        is_known = coming is not None and all(each in ended for each in range(num_known(file, coming)))
        if is_known and len(running) < num_workers and draw.random() < 0.7:
            running[coming] = synthetic(coming, draw.choice(workers).values(coming))
            coming = next(numbers, None)
        elif running:
            number = draw.choice(sorted(running))
            ended[number] = running.pop(number)
    return ended


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "gp"])
def test_order_and_number_of_workers_change_no_proposal(sampler: str) -> None:
    file = search(sampler, num_trials=13 if sampler == "gp" else 16)  # the first ten ask the process for nothing
    once = run(file, 1, 0)
    values = [once[number].values for number in range(file.num_trials)]
    assert len({str(each) for each in values}) == file.num_trials
    for num_workers, seed in ((2, 1), (8, 2)):
        again = run(file, num_workers, seed)
        assert list(again) != sorted(again), "all ended in their order: this shows nothing"
        assert [again[number].values for number in range(file.num_trials)] == values
        assert digest(list(again.values()), winner(list(again.values()), True)) == digest(
            list(once.values()), winner(list(once.values()), True)
        )


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "gp"])
def test_values_are_what_the_file_allows(sampler: str) -> None:
    file = search(sampler)
    for trial in run(file, 1, 0).values():
        for key, value in trial.values.items():
            parameter = file.parameters[key]
            if parameter.choices is not None:
                assert value in parameter.choices
            else:
                assert parameter.low <= value <= parameter.high
                assert isinstance(value, int if parameter.is_integer else float)
                assert value == float(f"{value:.6g}")


def test_seed_and_results_change_proposals() -> None:
    def values(file: SearchFile) -> list[dict[str, Any]]:
        trials = run(file, 1, 0)
        return [trials[number].values for number in range(file.num_trials)]

    tpe = values(search("tpe"))
    assert values(search("tpe", seed=4)) != tpe
    assert values(search("tpe", parallelism=1)) != tpe
    by_loss = values(search("tpe", objective="validation_loss"))
    assert by_loss[:8] == tpe[:8], "the first ones know no result"
    assert by_loss != tpe
    assert values(search("tpe", num_trials=12, name="other")) == tpe[:12]


def test_a_search_finds_what_is_best() -> None:
    found = run(search("tpe", num_trials=40, parallelism=1), 1, 0)
    best = winner(list(found.values()), True)
    assert best and abs(math.log10(best.values["recipes.lab.train.optimizer.learning_rate"]) + 2) < 0.5
    assert best.values["recipes.lab.train.optimizer.momentum"] == 0.9
