"""One setting with one seed, run as a DVC experiment."""

from dataclasses import dataclass

from samebits.search.search_file import ParamValue


@dataclass(frozen=True)
class SettingResult:
    """What a training of a setting with one seed came to.

    `history` has one row for each epoch: `validation_loss` and `validation_accuracy`. `diverged` is why there is no result,
    told as the stage did; then commit and history are empty.
    """

    commit: str = ""
    experiment: str = ""  # name in `dvc exp show`
    history: tuple[dict[str, float], ...] = ()
    history_sha256: str = ""
    diverged: str | None = None


class SettingRunner:
    """Runs settings as DVC experiments of a commit, in a clone of its own."""

    def run_setting(self, values: dict[str, ParamValue], fixed: dict[str, ParamValue], seed: int) -> SettingResult:
        """Return what came out of a setting with one seed; train only if nobody has yet."""
        raise NotImplementedError
