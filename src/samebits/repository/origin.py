"""Where the code and the parameters of a result come from."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Origin:
    """A commit, or none, and how the files differed from it."""

    commit: str | None
    patch: bytes
    experiment: str | None
    files: dict[str, bytes] = field(default_factory=dict)  # params.yaml and dvc.yaml
    is_dirty: bool = False  # the commit alone would not give this result: also true if the patch was not kept
