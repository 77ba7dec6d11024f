"""Metrics: against numbers worked out by hand or published; the table of predictions holds what was predicted."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from samebits import models, params
from samebits.data.prepared import Split
from samebits.errors import UserError
from samebits.evaluation import inference, predictions
from samebits.evaluation.metrics import summary
from samebits.evaluation.predictions import Predictions

torch.set_num_threads(1)
CLASSES = ("cat", "dog", "ship", "bird")
# True class, probabilities. Predicted: cat, dog, cat, cat, dog; ship is never predicted, bird is neither true nor
# predicted. The confidences 0.70 and 0.72 share the bin from 10/15 to 11/15, where one of two is right.
EXAMPLE = (
    ("cat", (0.70, 0.20, 0.10, 0.00)),
    ("dog", (0.10, 0.80, 0.05, 0.05)),
    ("dog", (0.72, 0.18, 0.06, 0.04)),
    ("ship", (0.40, 0.30, 0.20, 0.10)),
    ("dog", (0.00, 1.00, 0.00, 0.00)),
)
LABELS = np.array([CLASSES.index(name) for name, _ in EXAMPLE])


def example(dtype: type = np.float32) -> NDArray[Any]:
    return np.array([probabilities for _, probabilities in EXAMPLE], dtype=dtype)


def leaves(values: dict[str, Any]) -> Iterator[Any]:
    for value in values.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


def confident(right: int, total: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Two classes, `right` of `total` images classified right."""
    labels = np.zeros(total, dtype=np.int64)
    probabilities = np.tile(np.array([0.1, 0.9], dtype=np.float32), (total, 1))
    probabilities[:right] = 0.9, 0.1
    return probabilities, labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_worked_example(dtype: type) -> None:
    measured = summary.summarize(example(dtype), LABELS, CLASSES)
    assert measured["accuracy"] == 0.6
    assert measured["loss"] == pytest.approx(-math.log(0.70 * 0.80 * 0.18 * 0.20 * 1.00) / 5, abs=1e-6)
    # One image with 0.40 and wrong; 0.70 right and 0.72 wrong in one bin; 0.80 right; 1.00 right.
    assert measured["calibration_error"] == pytest.approx((0.40 + abs(1 - 0.70 - 0.72) + 0.20 + 0.00) / 5, abs=1e-6)
    assert measured["per_class"] == {
        "cat": {"accuracy": 1.0, "precision": 0.333333},
        "dog": {"accuracy": 0.666667, "precision": 1.0},
        "ship": {"accuracy": 0.0, "precision": 0.0},
        "bird": {"accuracy": 0.0, "precision": 0.0},
    }


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_is_wilsons(right: int, total: int, low: float, high: float) -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3.
    measured = summary.summarize(*confident(right, total), ("right", "wrong"))
    assert measured["accuracy"] == pytest.approx(right / total, abs=1e-6)
    assert (round(measured["accuracy_low"], 4), round(measured["accuracy_high"], 4)) == (low, high)


def test_every_metric_is_a_plain_number_of_six_decimals() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(4), 977).astype(np.float32)
    measured = summary.summarize(probabilities, random.integers(0, 4, 977), CLASSES)
    assert set(measured) == {"accuracy", "accuracy_low", "accuracy_high", "loss", "calibration_error", "per_class"}
    values = list(leaves(measured))
    assert len(values) == 5 + 2 * 4
    assert all(type(value) is float and value == round(value, 6) for value in values)
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    assert 0 < measured["accuracy_low"] < measured["accuracy"] < measured["accuracy_high"] < 1


def test_a_probability_of_zero_costs_much_but_not_infinitely_much() -> None:
    probabilities = np.array([[1, 0], [1, 0]], dtype=np.float32)
    measured = summary.summarize(probabilities, np.array([0, 1]), ("a", "b"))
    assert 100 < measured["loss"] < 1000
    assert measured["calibration_error"] == 0.5


def test_perfect_predictions() -> None:
    measured = summary.summarize(np.eye(3, dtype=np.float32), np.arange(3), ("a", "b", "c"))
    assert json.dumps(measured["loss"]) == "0.0"  # not -0.0
    assert (measured["accuracy"], measured["accuracy_high"], measured["calibration_error"]) == (1.0, 1.0, 0.0)
    assert 0 < measured["accuracy_low"] < 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_of_a_diverged_network_are_refused(value: float) -> None:
    probabilities = example()
    probabilities[1, 2] = value
    with pytest.raises(UserError, match=r"^.*not finite.*train\.optimizer\.learning_rate.*$"):
        summary.summarize(probabilities, LABELS, CLASSES)


def test_confusion_has_true_classes_in_rows() -> None:
    counts = summary.confusion_counts(LABELS, example().argmax(axis=1), len(CLASSES))
    assert counts.tolist() == [[1, 0, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_closed_on_the_right(dtype: type) -> None:
    assert summary.NUM_BINS == 15
    edges = np.arange(1, 16) / 15
    others = np.repeat((1 - edges)[:, None] / 20, 20, axis=1)
    on_the_edges = np.hstack([edges[:, None], others]).astype(dtype)
    labels = np.zeros(15, dtype=np.int64)
    assert summary.calibration(on_the_edges, labels).count.tolist() == [1] * 15
    beyond = on_the_edges[:-1].copy()
    beyond[:, 0] += 1e-4
    assert summary.calibration(beyond, labels[:-1]).count.tolist() == [0] + [1] * 14


def test_calibration_of_each_bin() -> None:
    result = summary.calibration(example(np.float64), LABELS)
    count = [0] * 15
    count[5] = count[11] = count[14] = 1
    count[10] = 2
    assert result.count.tolist() == count
    assert np.flatnonzero(~np.isnan(result.accuracy)).tolist() == [5, 10, 11, 14]
    assert result.accuracy[[5, 10, 11, 14]].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert result.confidence[[5, 10, 11, 14]] == pytest.approx([0.40, 0.71, 0.80, 1.00])
    assert np.array_equal(np.isnan(result.confidence), np.isnan(result.accuracy))
    weighted = np.nansum(np.abs(result.accuracy - result.confidence) * result.count) / len(LABELS)
    assert result.error == pytest.approx(weighted)


def test_predictions_read_back_to_the_same_bits(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    bits = random.integers(1, 0x3F800001, (500, 4), dtype=np.uint32)  # all of float32 up to 1, the tiniest as well
    probabilities = np.vstack([example(), bits.view(np.float32), np.eye(4, dtype=np.float32)])
    labels = random.integers(0, 4, len(probabilities))
    path = tmp_path / "predictions.csv"
    predictions.write(path, Predictions(CLASSES, probabilities, labels))

    table = pandas.read_csv(path)
    columns = [f"probability_{name}" for name in CLASSES]
    assert table.columns.tolist() == ["index", "true", "predicted", *columns]
    assert table["index"].tolist() == list(range(len(labels)))
    assert table["true"].tolist() == [CLASSES[label] for label in labels]
    assert table["predicted"].tolist() == [CLASSES[label] for label in probabilities.argmax(axis=1)]
    assert np.array_equal(table[columns].to_numpy().astype(np.float32).view(np.uint32), probabilities.view(np.uint32))


def test_predictions_are_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    predictions.write(path, Predictions(CLASSES, example()[2:4], LABELS[2:4]))
    assert path.read_bytes() == (
        b"index,true,predicted,probability_cat,probability_dog,probability_ship,probability_bird\n"
        b"0,dog,cat,0.720000029,0.180000007,0.0599999987,0.0399999991\n"
        b"1,ship,cat,0.400000006,0.300000012,0.200000003,0.100000001\n"
    )


def test_inference_covers_all_images_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4))
    images = torch.randn(101, 3, 2, 2).half()
    labels = torch.arange(101) % 4
    expected = network[2](images.float().flatten(1))
    for mode in (True, False):
        network.train(mode)
        for batch_size in (1, 10, 1000):
            logits = inference.predict_logits(network, images, batch_size)
            assert logits.dtype == torch.float32
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
        assert network.training is mode
    loss, accuracy = inference.loss_and_accuracy(network, Split(images, labels), "float32", 1)
    likelihoods = expected.double().softmax(1)[range(101), labels]
    assert loss == pytest.approx(-likelihoods.log().mean().item(), rel=1e-5)
    assert accuracy == pytest.approx((expected.argmax(1) == labels).sum().item() / 101, abs=1e-12)


def shifted(images: torch.Tensor, by: int) -> torch.Tensor:
    """The images one pixel along the diagonal, the border mirrored."""
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    return padded[:, :, 1 + by : 1 + by + height, 1 + by : 1 + by + width]


def test_test_time_augmentation_averages_views() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 8), nn.Tanh(), nn.Linear(8, 4, bias=False)).eval()
    network[3].weight.data *= 6
    images = torch.randn(300, 3, 6, 6)
    with torch.no_grad():
        mirrored, plus, minus = (
            (network(view) + network(view.flip(3))) / 2 for view in (images, shifted(images, 1), shifted(images, -1))
        )
    lead = mirrored.softmax(1).topk(2).values
    unsure = lead[:, 0] - lead[:, 1] < 0.3
    assert 20 < unsure.sum() < 280
    everywhere = mirrored / 2 + (plus + minus) / 4
    expected = {
        "none": network(images),
        "mirror": mirrored,
        "mirror_and_translate": torch.where(unsure[:, None], everywhere, mirrored),
    }
    for name, logits in expected.items():
        found = inference.predict_logits(network, images, 77, "float32", name)
        torch.testing.assert_close(found, logits.detach(), rtol=1e-5, atol=1e-5)


def test_bfloat16_inference_is_near_float32() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    images = torch.randn(50, 3, 6, 6)
    exact, coarse = (inference.predict_logits(network, images, 50, precision) for precision in ("float32", "bfloat16"))
    assert coarse.dtype == torch.float32 and not torch.equal(exact, coarse)
    torch.testing.assert_close(coarse, exact, rtol=0, atol=0.03)


@pytest.mark.parametrize(("name", "precision"), [("lab", "float32"), ("resnet", "float32"), ("resnet", "bfloat16")])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_bits_do_not_depend_on_the_number_of_workers(name: str, precision: str, num_threads: int) -> None:
    model = {"name": name} | ({"width": 8} if name == "resnet" else {"initialization": "pytorch"})
    network = models.build(params.part("model", model), (3, 16, 16), 10, seed=0)
    images = torch.randn(100, 3, 16, 16).half()
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        alone, *others = (
            inference.predict_logits(network, images, 9, precision, "mirror_and_translate", number)
            for number in (1, 2, 5)
        )
    finally:
        torch.set_num_threads(before)
    assert not alone.requires_grad and all(each.equal(alone) for each in others)
