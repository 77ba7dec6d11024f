"""What MLflow, its database or its server raise, in one line."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samebits.errors import UserError
from samebits.tracking.store import quiet_mlflow, tracking_uri, without_password


@contextmanager
def store_errors(root: Path) -> Iterator[None]:
    """Turn what MLflow, its database or its server raise into one line."""
    quiet_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:  # a server: OSError of requests
        uri = without_password(tracking_uri(root))
        if "out-of-date database schema" in str(error):
            raise UserError(
                f"{uri} has the schema of an older MLflow: copy it, then run `mlflow db upgrade {uri}`"
            ) from None
        raise UserError(f"the tracking store {uri} cannot be used ({short(error)})") from None


def short(error: BaseException) -> str:
    """Say in a few words, without passwords, what was raised."""
    text = " ".join(str(error).split()).partition(" [SQL: ")[0]
    text = without_password(text)
    if len(text) > 180:
        # A chain of causes: what was tried stands first, why it failed stands last.
        text = f"{text[:85]} ... {text[-85:]}"
    return f"{type(error).__name__}: {text}"
