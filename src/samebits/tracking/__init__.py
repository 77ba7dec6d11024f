"""MLflow: one run per result, found by its content. Importing this does not import mlflow (1.5 s)."""

from samebits.tracking.content import OUTPUTS, RunContent
from samebits.tracking.errors import store_errors
from samebits.tracking.recorder import Begin, Finish, Recorder
from samebits.tracking.runs import close_abandoned, content_md5, find_run, get_run
from samebits.tracking.store import Store, open_store, tracking_uri, without_password

__all__ = [
    "OUTPUTS",
    "Begin",
    "Finish",
    "Recorder",
    "RunContent",
    "Store",
    "close_abandoned",
    "content_md5",
    "find_run",
    "get_run",
    "open_store",
    "store_errors",
    "tracking_uri",
    "without_password",
]
