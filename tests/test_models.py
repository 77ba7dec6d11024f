"""The networks: exactly the ones that are named, with weights that only the seed decides."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from samebits import models, params, parts
from samebits.errors import UserError
from samebits.models import speed
from tests.example_parts import variants

torch.set_num_threads(1)
CIFAR10 = (3, 32, 32)


def build(
    name: str, image_shape: tuple[int, int, int] = CIFAR10, classes: int = 10, seed: int = 0, start: str = "pytorch"
) -> nn.Module:
    model = params.part("model", {"name": name} | ({"initialization": start} if name in ("lab", "linear") else {}))
    return models.build(model, image_shape, classes, seed)


def images(num_images: int, image_shape: tuple[int, int, int] = CIFAR10) -> torch.Tensor:
    return torch.randn(num_images, *image_shape, generator=torch.Generator().manual_seed(1))


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def with_weights_of(network: nn.Module, plain: nn.Module) -> nn.Module:
    """Return `plain` the weights of `network`, in the order of the layers; every shape has to agree."""
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


@pytest.mark.parametrize(("name", "least"), [("lab", 16), ("speed", 9)])
def test_images_too_small_for_a_network_are_refused(name: str, least: int) -> None:
    for image_shape in [(3, least - 1, 32), (3, 32, least - 1), (1, 8, 8), (3, 2, 2)]:
        given = f"{image_shape[1]}x{image_shape[2]}"
        with pytest.raises(UserError, match=f"^.*{name}.*at least {least}x{least}.*{given}.*$"):
            build(name, image_shape)
        build("linear", image_shape)
        build(name, (image_shape[0], least, least))


# Every network with every choice that it offers.
NETWORKS = [section for name in parts.names("model") for section in variants("model", name)]


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_every_network(model: dict[str, Any]) -> None:
    """One suite for all: shapes, dtype, the seed, the images that decide weights, gradients of all that is trained."""

    def network_of(seed: int, image_shape: tuple[int, int, int] = CIFAR10, classes: int = 10) -> nn.Module:
        network = models.build(params.part("model", model), image_shape, classes, seed)
        models.initialize_from(network, images(20, image_shape))
        return network

    torch.manual_seed(5)
    network, first = network_of(3), network_of(3).state_dict()
    torch.manual_seed(6)
    torch.rand(100)
    again, other = (network_of(seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    is_drawn = model.get("initialization") != "zero"
    assert any(not torch.equal(first[key], other[key]) for key in first) == is_drawn
    for image_shape, classes in (CIFAR10, 10), ((1, 28, 28), 3), ((3, 24, 40), 2):
        logits = network_of(0, image_shape, classes).eval()(images(5, image_shape))
        assert logits.shape == (5, classes) and logits.dtype == torch.float32 and logits.isfinite().all()
        assert (len(logits.unique(dim=0)) == 5) == is_drawn  # every image has its own
    trained = [each for group in models.parameter_groups(network).values() for each in group if each.requires_grad]
    assert {id(each) for each in trained} == {id(each) for each in network.parameters() if each.requires_grad}
    F.cross_entropy(network.train()(images(8)), torch.arange(8)).backward()
    assert all(each.grad is not None for each in trained)


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


def build_speed(image_shape: tuple[int, int, int] = CIFAR10, classes: int = 10, **settings: Any) -> speed.Network:
    network = models.build(params.part("model", {"name": "speed"} | settings), image_shape, classes, 0)
    assert isinstance(network, speed.Network)
    return network


@pytest.mark.parametrize(
    ("image_shape", "classes"), [(CIFAR10, 10), ((3, 24, 24), 10), ((1, 28, 28), 3), ((3, 9, 40), 2)]
)
def test_speed_fits_other_images_and_classes(image_shape: tuple[int, int, int], classes: int) -> None:
    network = build_speed(image_shape, classes)
    network.initialize_from(images(20, image_shape))
    logits = network(images(5, image_shape))
    assert logits.shape == (5, classes) and logits.dtype == torch.float32
    assert len(logits.unique(dim=0)) == 5
    with pytest.raises(UserError, match=r"^.*speed.*at least 9x9.*8x40.*$"):
        build_speed((3, 8, 40))


def test_speed_is_the_network_of_the_paper() -> None:
    network = build_speed().eval()
    network.initialize_from(images(50))
    for norm in (part for part in network.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    batch = images(4)
    features = F.gelu(F.conv2d(batch, network.whitening.weight, network.whitening.bias))
    for block in network.blocks:
        for convolution, norm, pool in ((block.conv1, block.norm1, 2), (block.conv2, block.norm2, 1)):
            size = convolution.weight.shape[1] // 9
            filters = convolution.weight.reshape(-1, 3, 3, size).permute(0, 3, 1, 2)
            features = F.max_pool2d(F.conv2d(features, filters, padding=1), pool)
            mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
            features = F.gelu((features - mean) / variance.sqrt() + norm.bias[:, None, None])
    expected = F.max_pool2d(features, 3).flatten(1) @ network.head.weight.T / 256
    torch.testing.assert_close(network(batch), expected, rtol=1e-4, atol=1e-5)
    # 1.97 million parameters (section 3.1); those that are fixed are not among the trained ones
    assert num_parameters(network) == 24 * 12 + 24 + 9 * (24 * 64 + 64**2 + 64 * 256 + 3 * 256**2) + 2 * 1152 + 2560
    fixed = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert fixed == [
        "whitening.weight",
        *(f"blocks.{block}.norm{norm}.weight" for block in range(3) for norm in (1, 2)),
    ]


def test_speed_does_not_compute_what_pooling_drops() -> None:
    with FlopCounterMode(display=False) as counter:
        build_speed(widths=[16, 24, 32])(images(1))
    # of 31x31, 15x15 and 7x7 pixels before each pooling
    pixels_and_filters = [
        (30**2, 24 * 16),
        (15**2, 16 * 16),
        (14**2, 16 * 24),
        (7**2, 24**2),
        (6**2, 24 * 32),
        (3**2, 32**2),
    ]
    convolutions = 31**2 * 24 * 12 + sum(pixels * 9 * filters for pixels, filters in pixels_and_filters)
    assert counter.get_total_flops() == 2 * (convolutions + 32 * 10)


@pytest.mark.parametrize("size", [(14, 15), (7, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_tiles_give_what_the_convolution_gives(size: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    """In a training, in tiles of 2×2 outputs with 16 products instead of 36; the bits are others."""
    torch.manual_seed(0)
    convolution = speed.Convolution(64, 96, is_pooled=True)
    features = images(5, (64, *size)).to(memory_format=torch.channels_last).requires_grad_()
    pixels = 5 * (size[0] // 2 * 2) * (size[1] // 2 * 2)

    def results(dtype: torch.dtype) -> tuple[list[torch.Tensor], int]:
        features.grad = convolution.weight.grad = None
        with FlopCounterMode(display=False) as counter, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            outputs = convolution(features.to(dtype))
            outputs.backward(torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2)).to(dtype))
        assert outputs.dtype == dtype and outputs.is_contiguous(memory_format=torch.channels_last)
        return [outputs.detach().float(), features.grad, convolution.weight.grad], counter.get_total_flops()

    found, num_operations = results(dtype)
    convolution.eval()
    expected, num_expected = results(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert 0 < (one - other).norm() < tolerance * other.norm()
    assert num_expected == 3 * 2 * pixels * 9 * 64 * 96
    assert num_expected * 16 // 36 < num_operations < 0.65 * num_expected  # the products and the transformations


def test_speed_begins_as_a_partial_identity() -> None:
    features = images(2, (256, 6, 6))
    for block in build_speed().blocks:
        for convolution in (block.conv1, block.conv2):
            size = convolution.weight.shape[1] // 9
            passed = convolution(features[:, :size])
            torch.testing.assert_close(passed[:, :size], features[:, :size])


def test_whitening_makes_the_numbers_of_a_patch_independent() -> None:
    random = images(500, (3, 12, 12))
    blurred = F.avg_pool2d(random, 3, stride=1)  # neighbours are alike, as in any picture
    network = build_speed((3, 10, 10))
    network.initialize_from(blurred)
    whitened = F.conv2d(blurred, network.whitening.weight)[:, :12].permute(0, 2, 3, 1).flatten(0, 2)
    covariance = whitened.T @ whitened / len(whitened)
    # An eigenvalue v becomes v / (v + 0.0005): next to 1, and a little less for the smallest.
    torch.testing.assert_close(covariance, torch.eye(12), rtol=0, atol=0.1)
    positive, negative = network.whitening.weight.chunk(2)
    assert torch.equal(positive, -negative)
