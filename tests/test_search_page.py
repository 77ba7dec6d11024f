"""The page of a search, shown by a real browser: what it says for each kind of search, and that it always opens."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samebits.reporting.search_page import search_page
from samebits.search.search_file import SearchFile
from samebits.search.trials import Trial
from tests.browser import Browser, chromium
from tests.search_example import PARAMETERS, RATE, confirmed, search_file, trials
from tests.test_page import look_at


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_a_search_on_one_page(browser: Browser, tmp_path: Path) -> None:
    file, tried = search_file(), trials(40)
    confirmation = confirmed(file)
    page = search_page(file, tried, confirmation)
    assert page == search_page(file, list(reversed(tried)), confirmation)
    (tmp_path / "search.html").write_text(page)
    text = " ".join(look_at(browser, tmp_path / "search.html")["text"].split())
    winner = confirmation.winner
    for expected in (
        f"The search said 63.10 % for trial {winner.number}, the best of 40 trials.",
        "On 5 fresh seeds the same setting gives 61.41 %",
        "29 complete, 6 pruned, 5 failed",
        "The band holds the median of the best",
        f"samebits report {winner.commits[0][:12]} dvc exp apply {winner.commits[0][:12]}",
        "recipes.lab.train.num_epochs, fixed 4",
        "0.0001 to 0.1, log",
    ):
        assert expected in text, expected
    browser.evaluate("document.querySelector('details').open = true")
    assert "pruned after 2 epochs" in browser.evaluate("document.body.innerText")
    # The pointer finds each trial in both charts.
    assert page.count(f"<title>trial {winner.number}: 63.10 %") == 2 and page.count(": failed\n") == 10
    shares = browser.evaluate("[...document.querySelectorAll('.classes th')].map((cell) => cell.innerText)")
    assert shares[0] == "learning_rate"


def _sorted(values: dict[str, Any]) -> dict[str, Any]:
    sorted_values: dict[str, Any] = json.loads(json.dumps(values, sort_keys=True))
    return sorted_values


LOSS = [replace(each, objective=each.objective and 2 - each.objective) for each in trials(20)]
ONE = [Trial(number, {RATE: 0.001 * (number + 1)}, "complete", 0.5) for number in range(12)]
CHOICES = {
    "recipes.lab.model.initialization": ["he", {"std": 0.1, "name": "normal"}],
    "recipes.lab.train.augmentation": [[], [{"name": "flip"}]],
}
AUGMENTED = [
    # As the sampler returns them: the keys of a section are sorted.
    Trial(
        number, _sorted({key: choices[number % 2] for key, choices in CHOICES.items()}), "complete", 0.5 + 0.01 * number
    )
    for number in range(12)
]
MOMENTUM = "recipes.lab.train.optimizer.momentum"
UNEVEN = {RATE: PARAMETERS[RATE], MOMENTUM: {"low": 0.0, "high": 0.95, "step": 0.1}}
EQUAL = [replace(each, values=each.values | {MOMENTUM: 0.1 * (each.number % 3)}) for each in ONE]
FAILED = [replace(each, state="failed", objective=None) for each in trials(3)]


@pytest.mark.parametrize(
    ("file", "tried", "expected"),
    [
        (search_file(objective="validation_loss"), LOSS, ["has a validation loss of 1.3"]),
        (search_file(sampler="tpe"), trials(40), ["No band: it holds for trials that are drawn independently"]),
        (search_file(), trials(1), ["The best of 1 trial, trial 0,"]),
        (search_file(), FAILED, ["No trial is complete: 3 failed."]),
        (search_file(), [], ["No trial is complete: none has run."]),
        (search_file(parameters={RATE: PARAMETERS[RATE]}), ONE, ["50.00 %"]),
        (search_file(parameters=UNEVEN), EQUAL, ["50.00 %"]),
        (search_file(parameters=CHOICES), AUGMENTED, ["{std: 0.1, name: normal}", "[{name: flip}]"]),
    ],
    ids=[
        "loss",
        "tpe",
        "one trial",
        "all failed",
        "no trial",
        "one parameter, equal objectives",
        "a step that does not divide its range, equal objectives",
        "choices",
    ],
)
@pytest.mark.filterwarnings("error")
def test_every_search_has_a_page(
    file: SearchFile, tried: list[Trial], expected: list[str], browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "search.html"
    path.write_text(search_page(file, tried, None))
    text = " ".join(look_at(browser, path)["text"].split())
    for each in expected:
        assert each in text
    assert ("Which parameters matter" in text) == (len(tried) >= 12 and len(file.parameters) > 1)


def test_names_and_values_from_hell_are_text(browser: Browser, tmp_path: Path) -> None:
    key, choice = "recipes.<b>.train.it's", "<script>alert(1)</script> " + "x" * 80
    file = search_file(parameters={key: [choice, "b"], "recipes.lab.train.it's": ["$x^2$", "é" * 60]})
    tried = [Trial(0, {key: choice, "recipes.lab.train.it's": "$x^2$"}, "complete", 0.5)]
    (tmp_path / "search.html").write_text(search_page(file, tried, None))
    seen = look_at(browser, tmp_path / "search.html")
    assert "<script>alert(1)</script>" in seen["text"] and "<b>.train.it's" in seen["text"]
