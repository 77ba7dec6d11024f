"""Shards and processes: the same bits on any number of processes, and what the shards are in figures."""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import distributed, nn
from torch.multiprocessing import start_processes

from samebits import models, params, paths, processes, stage
from samebits.data.prepared import Split
from samebits.errors import UserError
from samebits.stage import workers
from samebits.training import loop, parallel
from tests.conftest import PROJECT, Repository
from tests.example_parts import RECIPES, narrow
from tests.test_cifar10 import NEEDS_MOUNT, small_disk
from tests.test_kill import wait_until
from tests.test_optimizers import through_disk
from tests.test_training import random_split

torch.set_num_threads(1)
NUM_IMAGES, BATCH_SIZE, NUM_SHARDS = 20, 16, 8  # the second mini-batch has four images, so four of its shards are empty
IMAGE_SHAPE = (3, 16, 16)
WITH_TILES = {"name": "speed", "widths": [64, 64, 16]}  # as many channels as a convolution in tiles needs


def recipe(name: str) -> params.Recipe:
    """Return a recipe in little: 8 shards, two epochs, float32, a narrow network."""
    chosen = RECIPES[name]
    small = {"num_shards": NUM_SHARDS, "batch_size": BATCH_SIZE, "num_epochs": 2, "report_every_steps": 3}
    if chosen.train.data_pruning:
        small["data_pruning"] = params.DataPruning(first_epoch=2, percent=25)
    train = chosen.train.model_copy(update=small | {"num_threads": 1, "precision": "float32"})
    model = params.part("model", WITH_TILES) if name == "speed95" else narrow(chosen.model)
    return chosen.model_copy(update={"train": train, "model": model})


def images(num_images: int = NUM_IMAGES) -> Split:
    return random_split(num_images, IMAGE_SHAPE)


def digest(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def train(name: str, team: parallel.Team = parallel.ALONE, on_pause=None, state=None) -> tuple[str, list]:
    """Train a recipe in little; return the digest of the network, and the history."""
    data, chosen = images(), recipe(name)
    network = models.build(chosen.model, IMAGE_SHAPE, 10, seed=0)
    nothing = Split(data.images[:0], data.labels[:0])
    rows = loop.train(network, data, nothing, chosen.train, 0, lambda *_: None, on_pause, state, team)
    return digest(network), rows


def work(rank: int, size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    store = distributed.FileStore(str(folder / "store"), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=2))
    patient = distributed.new_group()
    torch.save(function(*arguments, parallel.Team(rank, size, patient)), folder / str(rank))
    distributed.barrier(patient)


def in_processes(size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(*arguments, team)` returns in each of `size` processes."""
    folder.mkdir()
    start_processes(work, (size, folder, function, *arguments), size, start_method="fork")
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(size)]


@pytest.mark.parametrize("name", ["lab", "sprint", "speed95", "resnet"])
def test_the_bits_are_the_same_on_any_number_of_processes(name: str, tmp_path: Path) -> None:
    expected = train(name)
    for size in (2, 4, 8):
        assert in_processes(size, tmp_path / str(size), train, name) == [expected] * size


def test_one_image_alone_is_a_line_if_batch_norm_cannot_normalize_it() -> None:
    data, chosen = images(17), recipe("sprint")
    network = models.build(chosen.model, IMAGE_SHAPE, 10, seed=0)
    settings = chosen.train.model_copy(update={"augmentation": []})
    with pytest.raises(UserError, match="choose another batch_size or num_shards"):
        loop.train(network, data, Split(data.images[:0], data.labels[:0]), settings, 0, lambda *_: None)


def compute(network: nn.Module, num_images: int, num_shards: int, team: parallel.Team = parallel.ALONE) -> torch.Tensor:
    """Compute one mini-batch in shards; return the loss."""
    data = images(num_images)

    def mean_loss(indices: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(data.images[indices].float()), data.labels[indices])

    shards = parallel.Shards(network, num_shards, team, 0, mean_loss)
    return shards.backward(torch.arange(num_images), step=0)


def test_whole_numbers_count_once_a_step() -> None:
    network = models.build(recipe("resnet").model, IMAGE_SHAPE, 10, seed=0)
    compute(network, 4, 8)
    counts = [each for name, each in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 1 for count in counts)


@pytest.mark.parametrize("num_images", [16, 13, 3])
def test_gradients_and_loss_are_those_of_the_whole_mini_batch(num_images: int) -> None:
    data = images(num_images)
    network, whole = (models.build(recipe("lab").model, IMAGE_SHAPE, 10, seed=0) for _ in range(2))
    loss = F.cross_entropy(whole(data.images.float()), data.labels)
    loss.backward()
    torch.testing.assert_close(compute(network, num_images, 8), loss.detach(), rtol=1e-6, atol=1e-6)
    for one, other in zip(network.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_running_statistics_are_the_mean_over_the_shards_and_constants_stay() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=0.25), nn.Flatten(), nn.LazyLinear(10))
    network.register_buffer("constant", torch.tensor([0.1, 1e20]))
    network(images(2).images.float())
    norm = network[0]
    before, tracked = norm.running_mean.clone(), int(norm.num_batches_tracked)
    compute(network, 13, 8)  # five shards of two images, three of one
    of_images = images(13).images.float().mean((2, 3))
    torch.testing.assert_close(norm.running_mean, 0.75 * before + 0.25 * of_images.mean(0))
    assert norm.num_batches_tracked == tracked + 1
    assert network.constant.equal(torch.tensor([0.1, 1e20]))


def test_batch_norm_normalizes_over_a_shard() -> None:
    seen: list[torch.Tensor] = []
    norm = nn.BatchNorm2d(3)
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    compute(nn.Sequential(norm, nn.Flatten(), nn.Linear(3 * 16 * 16, 10)), 16, 4)
    assert [len(output) for output in seen] == [4] * 4
    assert all(output.mean((0, 2, 3)).abs().max() < 1e-5 for output in seen)


def dropping(team: parallel.Team = parallel.ALONE) -> str:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 40), nn.Dropout(0.5), nn.Linear(40, 10))
    before = torch.get_rng_state()
    compute(network, 16, 8, team)
    assert torch.get_rng_state().equal(before)
    return str([parameter.grad.sum().item() for parameter in network.parameters()])


def test_what_a_network_draws_does_not_depend_on_the_processes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert in_processes(2, tmp_path / "2", dropping) == [dropping()] * 2


def resumed(state: loop.State, team: parallel.Team) -> tuple[str, list]:
    return train("lab", team, None, team.share(state if team.rank == 0 else None))


def test_a_state_goes_on_in_another_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_IMAGES_PER_CHUNK", BATCH_SIZE)
    states: list[loop.State] = []
    expected = train("lab", on_pause=lambda step, state: states.append(through_disk(state())))
    assert [state["step"] for state in states] == [1, 2, 3, 4]
    for size, state in (2, states[0]), (4, states[1]), (2, states[2]):
        folder = tmp_path / str(state["step"])
        assert in_processes(size, folder, resumed, state) == [expected] * size


def wait_for_one_that_hangs(team: parallel.Team) -> int:
    parallel.HANG = timedelta(seconds=1)
    if team.rank == 1:
        time.sleep(3)
        return 0
    with pytest.raises(SystemExit) as ended:
        team.sum(torch.zeros(10))
    return ended.value.code


def test_nobody_waits_for_ever_for_a_process_that_hangs(tmp_path: Path) -> None:
    assert in_processes(2, tmp_path / "2", wait_for_one_that_hangs) == [os.EX_TEMPFAIL, 0]


@pytest.mark.parametrize(
    ("num_cores", "num_threads", "num_shards", "expected"),
    [(1, 1, 8, 1), (2, 1, 8, 2), (7, 1, 8, 4), (64, 1, 8, 8), (64, 2, 64, 32), (1, 2, 8, 1), (64, 1, 1, 1)],
)
def test_auto_takes_what_cores_there_are(
    num_cores: int, num_threads: int, num_shards: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: num_cores)
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    values |= {"recipe": "speed", "device": "cpu"}
    values["recipes"]["speed"]["train"] |= {"num_shards": num_shards, "num_threads": num_threads}
    settings = params.Params.model_validate(values)
    assert workers.num_processes(settings) == expected
    assert stage.num_workers(settings, torch.device("cpu")) == num_cores


def test_what_is_not_set_leaves_no_trace() -> None:
    assert "num_shards" not in str(params.load(PROJECT / "params.yaml").resolved())


def in_shards(values: dict) -> None:
    """Let the lab train in shards, for some seconds."""
    values["checkpoint_every_seconds"] = 0.25
    values["recipes"]["lab"]["train"].update(num_shards=8, batch_size=16, num_epochs=1, report_every_steps=10)


def test_a_repro_with_processes_records_the_same_and_says_as_much(prepared: Repository) -> None:
    prepared.edit(lambda values: (in_shards(values), values.update(num_processes=1)))
    alone = prepared.run("dvc", "repro", "train")
    record = (prepared.root / "dvc.lock").read_bytes()
    prepared.edit(lambda values: values.update(num_processes=2))
    assert prepared.repro("train") == []
    shutil.rmtree(prepared.root / ".samebits")  # else it would go on from the end
    together = prepared.run("dvc", "repro", "--force", "--single-item", "train")
    assert (prepared.root / "dvc.lock").read_bytes() == record
    reports, same = ([line for line in each.stdout.splitlines() if "loss" in line] for each in (together, alone))
    assert len(reports) == 3 and reports == same
    assert together.stderr == alone.stderr


def test_a_mistake_is_one_line_and_a_bug_keeps_its_traceback(prepared: Repository) -> None:
    prepared.repro("prepare")
    prepared.edit(lambda values: (in_shards(values), values.update(num_processes=2)))
    prepared.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(learning_rate=1e30))
    failed = prepared.run("python", "stages/train.py", ok=False)
    assert failed.returncode == 1
    assert re.fullmatch(r"error: training stopped: the loss is .*\n", failed.stderr)
    code = prepared.root / "src/samebits/training/parallel.py"
    code.write_text(
        code.read_text().replace(
            "shards = indices", "assert step == 0 or not self._team.rank\n        shards = indices"
        )
    )
    prepared.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(learning_rate=0.001))
    failed = prepared.run("python", "stages/train.py", ok=False)
    assert failed.returncode == 1
    assert failed.stderr.count("Traceback") == 1 and "assert step == 0" in failed.stderr


@NEEDS_MOUNT
def test_a_disk_that_fills_in_one_process_is_one_line(prepared: Repository, tmp_path: Path) -> None:
    prepared.repro("prepare")
    prepared.edit(lambda values: (in_shards(values), values.update(num_processes=2)))
    code, fill = (
        prepared.root / "src/samebits/training/parallel.py",
        "Path(os.environ['TMPDIR'], 'f').write_bytes(bytes(2**21))",
    )
    changed = f"not (step and self._team.rank) or {fill}\n        shards = indices"
    code.write_text(code.read_text().replace("shards = indices", changed))
    with small_disk(tmp_path / "disk", "1m") as disk:  # which holds what the second process prints
        failed = prepared.run("python", "stages/train.py", ok=False, TMPDIR=str(disk))
        (line,) = (line for line in failed.stderr.splitlines() if not line.startswith("warning: MLflow did not record"))
        assert failed.returncode == 1
        # Whichever of the two ends first is told of: the second, which could not write why, or the first, which loses it.
        assert line.startswith(("error: training process 2 of 2 failed", "error: the processes of a training meet"))
        assert str(disk) in line and "TMPDIR" in line


@NEEDS_MOUNT
def test_a_full_disk_where_processes_meet_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", "4k") as disk:
        (disk / "full").write_bytes(bytes(4096))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(disk / "error.json"))
        with pytest.raises(UserError, match=f"meet in files of {disk}, .*No space left on device.*TMPDIR"):
            parallel._leave(RuntimeError("write: No space left on device"))


def of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return the workers of a stage, in their order."""
    found = {}
    for each in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # or a zombie
            if each.cmdline()[-2:-1] == ["worker"]:
                found[int(each.environ()["RANK"])] = each
    return [found[rank] for rank in sorted(found)]


def are_gone(started: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(started, timeout=30)[1]


class Killing:
    """Starts a training of the lab again and again, and ends it."""

    def __init__(self, repository: Repository, num_epochs: int) -> None:
        self.repository = repository
        repository.repro("prepare")
        repository.edit(in_shards)
        repository.edit(lambda values: values["recipes"]["lab"]["train"].update(num_epochs=num_epochs))

    def expected(self) -> str:
        """Return the hash of the checkpoint of one process that is never stopped, and leave no resume point of it."""
        expected = self.finish(1)
        shutil.rmtree(self.repository.root / ".samebits")
        return expected

    def points(self) -> list[str]:
        return sorted(path.name for path in (self.repository.root / ".samebits/resume").glob("*/*.point"))

    def start(self, num_processes: int) -> "subprocess.Popen[str]":
        """Start in so many processes."""
        self.repository.edit(lambda values: values.update(num_processes=num_processes))
        return self.repository.start("python", "stages/train.py")

    def wait_for_a_point(self, process: "subprocess.Popen[str]") -> None:
        before = self.points()
        assert wait_until(lambda: self.points()[-1:] != before[-1:], process, 180), process.communicate()[0]

    def finish(self, num_processes: int) -> str:
        process = self.start(num_processes)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return hashlib.sha256((self.repository.root / paths.CHECKPOINT).read_bytes()).hexdigest()


@pytest.mark.long
@pytest.mark.usefixtures("cold")
def test_killed_workers_cost_the_steps_since_the_last_point(prepared: Repository) -> None:
    killing = Killing(prepared, num_epochs=10)
    expected = killing.expected()

    process = killing.start(2)
    for place in (1, 0):
        killing.wait_for_a_point(process)
        started = of(process)
        started[place].kill()
        assert are_gone(started)
    killing.wait_for_a_point(process)
    started = of(process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and are_gone(started)
    for place in (1, 2):
        assert f"note: training process {place} of 2 was killed (signal 9); starting again from the last" in output
    assert "Traceback" not in output and output.count("going on after step") == 2

    for end in (signal.SIGTERM, signal.SIGKILL):
        process = killing.start(4)
        killing.wait_for_a_point(process)
        started = of(process)
        process.send_signal(end)
        output, _ = process.communicate(timeout=60)
        assert are_gone(started) and len(started) == 4
        assert "Traceback" not in output and "going on after step" in output
    assert killing.finish(8) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("cold")
def test_20_kills_at_random_with_other_numbers_of_processes_cost_no_bit(prepared: Repository) -> None:
    killing, chance = Killing(prepared, num_epochs=120), random.Random(0)
    expected = killing.expected()
    for number in range(20):
        process = killing.start(chance.choice((2, 4, 8)))
        killing.wait_for_a_point(process)
        time.sleep(chance.uniform(0, 1))
        started = of(process)
        if number % 2:
            chance.choice(started).kill()
            killing.wait_for_a_point(process)
            started += of(process)
        process.kill()
        process.communicate()
        assert are_gone(started)
    assert killing.finish(2) == expected
