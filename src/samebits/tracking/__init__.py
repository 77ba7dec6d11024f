"""MLflow: one run per result, found by its content. Importing this does not import mlflow (1.5 s)."""

from samebits.tracking.recorder import Recorder
from samebits.tracking.run_content import OUTPUTS, RunContent, content_md5
from samebits.tracking.runs import find_run, get_run
from samebits.tracking.store import Store, open_store, store_errors, tracking_uri, without_password

__all__ = [
    "OUTPUTS",
    "Recorder",
    "RunContent",
    "Store",
    "content_md5",
    "find_run",
    "get_run",
    "open_store",
    "store_errors",
    "tracking_uri",
    "without_password",
]
