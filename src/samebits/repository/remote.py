"""A DVC remote: a folder, or one reached by SSH, S3 or another protocol that DVC has a plug-in for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samebits.errors import UserError


class Remote:
    """A remote that holds objects by their MD5s, and run records. What goes wrong with it is a UserError of one line."""

    def __init__(self, repository: Any, name: str) -> None:
        self.name = name
        self._objects = repository.cloud.get_remote_odb(name)
        self._records = repository.cloud.get_remote_odb(name, hash_name="md5-dos2unix")
        self._fs = self._objects.fs
        self._cache = repository.cache.local
        self.url = repository.config["remote"][name]["url"]
        self.is_checked = bool(self._objects.verify)

    def __str__(self) -> str:
        return f"{self.name} ({self.url})"

    def object_sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Give the bytes of those of the objects that are there."""
        return self._sizes({name: self._objects.oid_to_path(name) for name in names})

    def record_sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Give the bytes of those of the run records that are there; a name is a path below `runs`."""
        return self._sizes({name: self._record_path(name) for name in names})

    def send_objects(self, paths: Mapping[str, Path], progress: Callable[[], Any]) -> None:
        """Send files to become the objects of these names, each whole or not at all."""
        failed = _Failures(self)
        with self._refusing(), _callback(progress) as callback:
            self._objects.add(
                *([str(path) for path in paths.values()], _local(), list(paths)),
                **{"check_exists": False, "verify": False, "callback": callback, "on_error": failed.note_object},
            )
        failed.raise_first()

    def send_records(self, paths: Mapping[str, Path], progress: Callable[[], Any]) -> None:
        """Send files to become the run records of these names, each whole or not at all."""
        from dvc_objects.fs import generic

        failed = _Failures(self)
        targets = [self._record_path(name) for name in paths]
        with self._refusing(), _callback(progress) as callback:
            generic.copy(
                *(_local(), [str(path) for path in paths.values()], self._fs, targets),
                **{"callback": callback, "on_error": failed.note_record},
            )
        failed.raise_first()

    def fetch_objects(self, names: Sequence[str]) -> None:
        """Fetch those of the objects that are there into DVC's cache, and none that is damaged."""
        with self._refusing():
            paths = [self._objects.oid_to_path(name) for name in names]
            self._cache.add(
                *(paths, self._fs, list(names)),
                **{"check_exists": False, "verify": True, "on_error": lambda *_: None},
            )

    def refuse(self, error: BaseException) -> UserError:
        """Give the line for what the remote, or the way to it, raised."""
        text = " ".join(str(error).split()) or "it gave no reason"
        return UserError(f"the remote {self} cannot be used: {type(error).__name__}: {text[:300]}; {_remedy(error)}")

    def _record_path(self, name: str) -> str:
        return str(self._fs.join(self._records.path, "runs", *name.split("/")))

    def _sizes(self, paths: Mapping[str, str]) -> dict[str, int]:
        with self._refusing():
            found = self._fs.info(list(paths.values()), return_exceptions=True) if paths else []
        sizes = {}
        for name, info in zip(paths, found, strict=True):
            if isinstance(info, FileNotFoundError | NotADirectoryError):
                continue
            if isinstance(info, BaseException):
                raise self.refuse(info)
            sizes[name] = int(info["size"])
        return sizes

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a remote fails in as many ways as there are remotes
            raise self.refuse(error) from None


class _Failures:
    """Remembers why files could not be sent: DVC goes on with the others."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._errors: list[BaseException] = []

    def note_object(self, _: str, error: BaseException) -> None:
        self._errors.append(error)

    def note_record(self, _: str, __: str, error: BaseException) -> None:
        self._errors.append(error)

    def raise_first(self) -> None:
        if self._errors:
            raise self._remote.refuse(self._errors[0])


@contextmanager
def open_remote(root: Path, name: str | None, settings: Mapping[str, Any]) -> Iterator[Remote]:
    """Open the remote `name` of the repository in `root`, or its default one. Raises UserError where it cannot be opened."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_objects.fs.errors import RemoteMissingDepsError

    known = sorted(settings["remote"])
    name = name or settings["core"].get("remote")
    if not name:
        which = (
            f"`dvc remote default {known[0]}` chooses one" if known else "`dvc remote add --default team URL` adds one"
        )
        raise UserError(f"no default remote is set: {which}")
    if name not in known:
        raise UserError(
            f"{name} is no remote of this repository: it has {', '.join(known) or 'none'}; `dvc remote add` adds one"
        )
    scheme = settings["remote"][name]["url"].partition(":")[0]
    if scheme in ("http", "https"):
        raise UserError(
            f"the remote {name} is reached by {scheme}, by which DVC shares no run records: use another protocol"
        )
    try:
        repository = Repo(str(root))
    except DvcException as error:
        raise UserError(f"DVC cannot open {root}: {error}") from None
    with repository:
        try:
            remote = Remote(repository, name)
        except (RemoteMissingDepsError, ImportError):
            raise UserError(f"the remote {name} needs DVC's plug-in for {scheme}: `pip install dvc-{scheme}`") from None
        except DvcException as error:
            raise UserError(f"the remote {name} cannot be used: {error}") from None
        yield remote


def _local() -> Any:
    from dvc_objects.fs.local import localfs

    return localfs


@contextmanager
def _callback(progress: Callable[[], Any]) -> Iterator[Any]:
    from fsspec.callbacks import Callback

    class Counter(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            for _ in range(inc):
                progress()

    yield Counter()


def _remedy(error: BaseException) -> str:
    match error:
        case OSError(errno=28):
            return "make room there, then share again: what was sent stays"
        case PermissionError():
            return "ask for permission to write there, or check the key (`dvc remote modify --local`)"
        case _:
            return "check that its host can be reached and that you may log in, then share again: what was sent stays"
