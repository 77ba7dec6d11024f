"""A search in MLflow: a run of its own, whose children are the runs of its trials."""

from collections.abc import Collection, Mapping
from pathlib import Path

from samebits.tracking.store import open_store, store_errors

SEARCH, PARENT = "samebits.search", "mlflow.parentRunId"


def group(root: Path, search_id: str, name: str, experiments: Collection[str], metrics: Mapping[str, float]) -> None:
    """Make the runs of DVC experiments the children of the run of a search, which is made if there is none.

    Raises UserError if the store cannot be used.
    """
    with store_errors(root):
        store = open_store(root)
        with store.lock:  # another process may end the same search at this moment
            found = store.client.search_runs([store.experiment_id], f"tags.`{SEARCH}` = '{search_id}'")
            tags = {SEARCH: search_id}
            run = found[0] if found else store.client.create_run(store.experiment_id, run_name=name, tags=tags)
            parent = run.info.run_id
            store.client.set_terminated(parent, "FINISHED")
        for key, value in metrics.items():
            store.client.log_metric(parent, key, value)
        named = f"tags.`samebits.experiments` LIKE '%{name}-%'"
        for run in store.client.search_runs([store.experiment_id], named, max_results=50_000):  # MLflow's limit
            is_mine = not set(run.data.tags["samebits.experiments"].split()).isdisjoint(experiments)
            if is_mine and run.data.tags.get(PARENT) != parent:
                store.client.set_tag(run.info.run_id, PARENT, parent)
