"""The networks: exactly the ones that are named, with weights that only the seed decides."""

import math

import pytest
import torch
from torch import nn

from samebits import models, params
from samebits.errors import UserError

torch.set_num_threads(1)
CIFAR10 = (3, 32, 32)


def build(
    name: str, image_shape: tuple[int, int, int] = CIFAR10, classes: int = 10, seed: int = 0, start: str = "pytorch"
) -> nn.Module:
    model = params.Model.model_validate({"name": name, "initialization": start})
    return models.build(model, image_shape, classes, seed)


def images(num_images: int, image_shape: tuple[int, int, int] = CIFAR10) -> torch.Tensor:
    return torch.randn(num_images, *image_shape, generator=torch.Generator().manual_seed(1))


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def with_weights_of(network: nn.Module, plain: nn.Module) -> nn.Module:
    """Give `plain` the weights of `network`, in the order of the layers; every shape has to agree."""
    weights = list(network.state_dict().values())
    assert [tensor.shape for tensor in weights] == [tensor.shape for tensor in plain.state_dict().values()]
    plain.load_state_dict(dict(zip(plain.state_dict(), weights, strict=True)))
    return plain


def test_lab_is_the_network_of_the_lab() -> None:
    network = build("lab")
    plain = nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    batch = images(16)
    assert torch.equal(network(batch), with_weights_of(network, plain)(batch))
    assert num_parameters(network) == 62_006


def test_linear_is_softmax_regression_on_the_pixels() -> None:
    network = build("linear")
    weight, bias = network.state_dict().values()
    batch = images(16)
    expected = batch.double().reshape(16, -1) @ weight.double().T + bias.double()
    torch.testing.assert_close(network(batch).double(), expected, rtol=1e-5, atol=1e-5)
    assert num_parameters(network) == 30_730


@pytest.mark.parametrize("name", ["lab", "linear"])
@pytest.mark.parametrize(("image_shape", "classes"), [((1, 28, 28), 3), ((3, 16, 16), 2), ((4, 17, 50), 100)])
def test_other_images_and_classes_fit(name: str, image_shape: tuple[int, int, int], classes: int) -> None:
    logits = build(name, image_shape, classes)(images(5, image_shape))
    assert logits.shape == (5, classes) and logits.isfinite().all()
    assert len(logits.unique(dim=0)) == 5  # every image has its own


@pytest.mark.parametrize("image_shape", [(3, 15, 32), (3, 32, 15), (1, 8, 8), (3, 2, 2)])
def test_images_too_small_for_the_lab_network_are_refused(image_shape: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match=f"^.*lab.*at least 16x16.*{image_shape[1]}x{image_shape[2]}.*$"):
        build("lab", image_shape)
    build("linear", image_shape)


@pytest.mark.parametrize("start", ["pytorch", "he"])
@pytest.mark.parametrize("name", ["lab", "linear"])
def test_weights_are_decided_by_the_seed_alone(name: str, start: str) -> None:
    torch.manual_seed(5)
    first = build(name, seed=3, start=start).state_dict()
    torch.manual_seed(6)
    torch.rand(100)
    again, other = (build(name, seed=seed, start=start).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(not torch.equal(first[key], other[key]) for key in first if key.endswith("weight"))


@pytest.mark.parametrize("start", ["pytorch", "he", "zero"])
def test_building_leaves_the_global_generators_alone(start: str) -> None:
    def states() -> list[torch.Tensor]:
        return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]

    before = states()
    build("lab", start=start)
    assert all(torch.equal(*pair) for pair in zip(before, states(), strict=True))


def layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("name", ["lab", "linear"])
def test_pytorch_initialization_is_uniform_in_its_bound(name: str) -> None:
    for layer in layers(build(name)):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert layer.weight.abs().max() <= bound and layer.bias.abs().max() <= bound
        assert layer.bias.any()
        assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=_tolerance(layer))


@pytest.mark.parametrize("name", ["lab", "linear"])
def test_he_initialization_has_variance_two_over_fan_in(name: str) -> None:
    for layer in layers(build(name, start="he")):
        fan_in = layer.weight[0].numel()
        assert layer.weight.var().item() == pytest.approx(2 / fan_in, rel=_tolerance(layer))
        assert abs(layer.weight.mean().item()) < 5 * math.sqrt(2 / fan_in / layer.weight.numel())
        # Normal, not uniform with the same variance, which ends at sqrt(3) deviations.
        assert layer.weight.abs().max().item() > 2 * math.sqrt(2 / fan_in)
        assert not layer.bias.any()


def _tolerance(layer: nn.Conv2d | nn.Linear) -> float:
    """Five standard deviations of the variance of so many normal numbers, relative to it."""
    return 5 * math.sqrt(2 / layer.weight.numel())


@pytest.mark.parametrize("name", ["lab", "linear"])
def test_zero_initialization_is_zero(name: str) -> None:
    network = build(name, start="zero")
    assert not any(parameter.any() for parameter in network.parameters())
    assert not network(images(3)).any()
