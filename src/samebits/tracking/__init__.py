"""MLflow: one run per result, found by its content. Importing this does not import mlflow (1.5 s)."""

from samebits.repository.digests import file_md5
from samebits.tracking.errors import store_errors
from samebits.tracking.evaluation import EvaluationRecord
from samebits.tracking.results import OUTPUTS
from samebits.tracking.runs import close_abandoned, content_md5, find_run, get_run
from samebits.tracking.store import Store, open_store, tracking_uri, without_password
from samebits.tracking.training import TrainingRecord

__all__ = [
    "OUTPUTS",
    "EvaluationRecord",
    "Store",
    "TrainingRecord",
    "close_abandoned",
    "content_md5",
    "file_md5",
    "find_run",
    "get_run",
    "open_store",
    "store_errors",
    "tracking_uri",
    "without_password",
]
