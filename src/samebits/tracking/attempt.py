"""Recording that may fail or hang: training and evaluation never depend on MLflow, a failure costs one warning line."""

import sys
import threading
from collections.abc import Callable

from samebits.tracking.errors import short

WAIT_SECONDS = 60.0


class Attempt:
    """Work on a thread of its own, which may fail or hang without harm to the program; `what` names it in a warning."""

    def __init__(self, what: str, work: Callable[[], None]) -> None:
        self._what = what
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin the work; returns at once."""
        self._thread.start()

    def wait(self, seconds: float, reassurance: str = "") -> None:
        """Wait until the work is done, at most `seconds`; print one line where it failed or is not done."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            reason = f"not done after {seconds:.0f} s"
        elif self._error is not None:
            reason = short(self._error)
        else:
            return
        print(f"warning: MLflow did not record {self._what} ({reason}){reassurance}", file=sys.stderr)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error
