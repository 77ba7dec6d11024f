"""Training on a GPU: without one, that nothing waits for it; with one, that its bits repeat."""

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from samebits import models, params, runtime
from samebits.data.prepared import Split
from samebits.training import loop
from tests.conftest import PROJECT
from tests.example_parts import narrow

IMAGE_SHAPE = (3, 32, 32)
NUM_STEPS = 6


class Waiting(TorchDispatchMode):
    """Notes the operations whose result the processor needs to go on: on a GPU it waits there for all work before."""

    ASKING = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.nonzero", "aten.masked_select", "aten.equal")

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        masks = arguments[1] if str(operation).startswith("aten.index") and len(arguments) > 1 else ()
        is_masked = isinstance(masks, list) and any(mask is not None and mask.dtype is torch.bool for mask in masks)
        if str(operation).startswith(self.ASKING) or is_masked:
            self.noted.append(str(operation))
        return operation(*arguments, **(named or {}))


def drawn(num_images: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(num_images, *IMAGE_SHAPE, generator=generator).half(), torch.arange(num_images) % 10)


@pytest.mark.parametrize("recipe", params.load(PROJECT / "params.yaml").recipes)
def test_an_epoch_never_waits_for_the_gpu(recipe: str) -> None:
    settings = params.load(PROJECT / "params.yaml").recipes[recipe]
    change = {"num_epochs": 1, "batch_size": 10, "report_every_steps": NUM_STEPS, "precision": "float32"}
    train = settings.train.model_copy(update=change)
    network = models.build(narrow(settings.model), IMAGE_SHAPE, 10, seed=0)
    reports = []
    with Waiting() as waiting:
        loop.train(network, drawn(10 * NUM_STEPS), drawn(0), train, 0, lambda *report: reports.append(report))
    assert len(reports) == 1 and waiting.noted == []


def test_what_would_wait_is_noticed() -> None:
    data = drawn(20)
    with Waiting() as waiting:
        assert len(data.images[data.labels == 3]) == 2 and data.labels.max().item() == 9
    assert waiting.noted == ["aten.index.Tensor", "aten._local_scalar_dense.default"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("recipe", ["lab", "sprint", "resnet"])
def test_on_a_gpu_the_bits_repeat_also_after_a_stop(recipe: str) -> None:
    settings = params.load(PROJECT / "params.yaml").recipes[recipe]
    change = {"num_epochs": 6, "batch_size": 10, "report_every_steps": NUM_STEPS}
    train = settings.train.model_copy(update=change)
    runtime.make_deterministic(num_threads=1)
    data, nothing = (drawn(number).to(torch.device("cuda")) for number in (10 * NUM_STEPS + 5, 0))

    def weights(on_pause: Any = None, state: Any = None) -> list[torch.Tensor]:
        network = models.build(settings.model, IMAGE_SHAPE, 10, seed=0).to("cuda")
        loop.train(network, data, nothing, train, 0, lambda *_: None, on_pause, state)
        return [each.cpu() for each in network.state_dict().values()]

    states: list[loop.State] = []
    expected = weights(lambda step, state: states.append(copy.deepcopy(state())))
    for state in None, states[len(states) // 2]:
        assert all(map(torch.equal, weights(state=state), expected))
