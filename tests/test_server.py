"""A team's tracking server: a real `mlflow server` on a real PostgreSQL, used from two clones, and killed."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samebits.tracking import open_store
from samebits.tracking.store import quiet_mlflow
from tests.conftest import Repository, copy_tree, slow_down
from tests.servers import TrackingServer, postgresql, program, tracking_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingServer]:
    if program("initdb") is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    quiet_mlflow()
    with postgresql() as database, tracking_server(database, tmp_path / "server") as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
        yield running


def runs() -> dict[str | None, Any]:
    """Return the runs on the server by their seeds; None of one that only just began, and has no parameters yet."""
    store = open_store(Path.cwd())
    found = store.client.search_runs([store.experiment_id])
    assert len({run.data.params.get("seed") for run in found}) == len(found)
    return {run.data.params.get("seed"): run for run in found}


def test_two_clones_log_to_one_server_and_a_killed_server_costs_no_result(
    done: Repository, server: TrackingServer, tmp_path: Path
) -> None:
    uri = {"MLFLOW_TRACKING_URI": server.uri}
    second = Repository(tmp_path / "second")
    copy_tree(done.root, second.root)
    # The result that both have: recorded afterwards, by both at once, and once.
    both = [repository.start("samebits", "track", is_warm=True, **uri) for repository in (done, second)]
    for process in both:
        output, _ = process.communicate(timeout=600)
        assert f"runs in {server.uri}: " in output
    assert set(runs()) == {"0"}
    # A result of each.
    for seed, repository in ((1, done), (2, second)):
        repository.edit(lambda values, seed=seed: values.update(seed=seed))  # type: ignore[misc]
    both = [repository.start("dvc", "repro", is_warm=True, **uri) for repository in (done, second)]
    for process in both:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0 and "warning" not in output, output
    logged = runs()
    assert set(logged) == {"0", "1", "2"}
    assert all(run.info.status == "FINISHED" and "accuracy" in run.data.metrics for run in logged.values())
    store = open_store(done.root)
    assert "mistakes.png" in {file.path for file in store.client.list_artifacts(logged["1"].info.run_id)}
    assert "images_per_second" in logged["2"].data.metrics and "images_per_second" not in logged["0"].data.metrics

    # The server dies while it trains.
    done.edit(lambda values: values.update(seed=3))
    done.edit(lambda values: values["recipes"]["lab"]["train"].update(num_epochs=2, report_every_steps=10))
    slow_down(done, 0.02)
    process = done.start("dvc", "repro", is_warm=True, **uri)
    deadline = time.monotonic() + 300
    while "3" not in runs():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    server.kill()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.count("warning: MLflow did not record this training") == 1
    assert output.count("warning: ") <= 2  # and one of the evaluation

    server.start()
    again = done.run("samebits", "track", **uri)
    assert again.stdout == f"runs in {server.uri}: 1 new, 0 completed, 0 there already\n" and again.stderr == ""
    found = [run for run in store.client.search_runs([store.experiment_id]) if run.data.params["seed"] == "3"]
    assert sorted(run.info.status for run in found) == ["FINISHED", "KILLED"]
    (run,) = [run for run in found if run.info.status == "FINISHED"]
    assert run.data.tags["samebits.recorded"] == "afterwards" and "accuracy" in run.data.metrics
    assert len(store.client.get_metric_history(run.info.run_id, "train_loss")) == 20
