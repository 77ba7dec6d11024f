"""A DVC remote: a folder, or one reached by SSH, S3 or another protocol that DVC has a plug-in for."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from samebits.errors import UserError
from samebits.repository import cache as caches
from samebits.repository.digests import md5_of


class Remote:
    """A remote that holds objects by their MD5s, and run records. Whatever fails in it raises UserError with one line."""

    def __init__(self, repository: Any, name: str) -> None:
        self.name = name
        self._objects = repository.cloud.get_remote_odb(name)
        self._fs = self._objects.fs
        records = repository.cloud.get_remote_odb(name, hash_name="md5-dos2unix")
        self._runs = self._fs.join(records.path, "runs")
        self._cache = repository.cache.local
        self.url = repository.config["remote"][name]["url"]
        self.is_checked = bool(self._objects.verify)

    def __str__(self) -> str:
        return f"{self.name} ({self.url})"

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Return the size in bytes of each of these objects, or run records by their paths below `runs`, that is there."""
        with self._refusing():
            found = self._fs.info([self._path(name) for name in names], return_exceptions=True) if names else []
            sizes = {}
            for name, info in zip(names, found, strict=True):
                if isinstance(info, BaseException) and not isinstance(info, FileNotFoundError | NotADirectoryError):
                    raise info
                if not isinstance(info, BaseException):
                    sizes[name] = int(info["size"])
            return sizes

    def send_objects(self, paths: Mapping[str, Path]) -> None:
        """Send files to become the objects of these names, each whole or not at all, with a progress bar on a terminal."""
        from dvc_objects.fs.local import localfs

        with self._sending("objects", len(paths)) as options:
            sources = [str(path) for path in paths.values()]
            self._objects.add(sources, localfs, list(paths), check_exists=False, verify=False, **options)

    def send_records(self, paths: Mapping[str, Path]) -> None:
        """Send files to become the run records of these names, in the same way."""
        from dvc_objects.fs import generic
        from dvc_objects.fs.local import localfs

        with self._sending("run records", len(paths)) as options:
            sources = [str(path) for path in paths.values()]
            generic.copy(localfs, sources, self._fs, [self._path(name) for name in paths], **options)

    def fetch_objects(self, names: Sequence[str]) -> None:
        """Fetch those of the objects that are there into DVC's cache, except damaged ones."""
        with self._refusing():
            paths = [self._path(name) for name in names]
            self._cache.add(paths, self._fs, list(names), check_exists=False, verify=True, on_error=lambda *_: None)

    def read_object(self, name: str) -> bytes | None:
        """Return the content of an object; None if it is damaged there, or not there."""
        with self._refusing(), suppress(FileNotFoundError):
            content: bytes = self._fs.cat_file(self._path(name))
            if md5_of(content) == name.removesuffix(".dir"):
                return content
        return None

    def require_records(self) -> None:
        """Raise UserError if DVC keeps no run records in such a remote."""
        if (scheme := self.url.partition(":")[0]) in ("http", "https"):
            raise UserError(
                f"the remote {self.name} is reached by {scheme}, by which DVC shares no run records: use another protocol"
            )

    def _path(self, name: str) -> str:
        return f"{self._runs}/{name}" if "/" in name else str(self._objects.oid_to_path(name))

    @contextmanager
    def _sending(self, what: str, number: int) -> Iterator[dict[str, Any]]:
        """Yield DVC's options to show a progress bar and to go on with the other files when one cannot be sent."""
        from fsspec.callbacks import TqdmCallback

        errors: list[BaseException] = []
        style = {"desc": f"sending {what}", "unit": "file", "disable": None, "leave": False}
        with self._refusing("share again: what was sent stays"), TqdmCallback(tqdm_kwargs=style, size=number) as bar:
            yield {"callback": bar, "on_error": lambda *arguments: errors.append(arguments[-1])}
            if errors:
                raise errors[0]

    @contextmanager
    def _refusing(self, what_then: str = "try again") -> Iterator[None]:
        """Turn what the remote, or the way to it, raises into a UserError."""
        try:
            yield
        except Exception as error:  # a remote fails in as many ways as there are remotes
            text = " ".join(str(error).split()) or "it gave no reason"
            reason = f"{type(error).__name__}: {text[:300]}; {_remedy(error)}, then {what_then}"
            raise UserError(f"the remote {self} cannot be used: {reason}") from None


@contextmanager
def open_remote(root: Path, name: str | None = None) -> Iterator[Remote]:
    """Open the remote `name` of the repository in `root`, by default its default remote. Raises UserError if that fails."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_objects.fs.errors import RemoteMissingDepsError

    settings = caches.settings(root)
    known = sorted(settings["remote"])
    name = name or settings["core"].get("remote")
    if not name:
        command, what = (f"default {known[0]}", "chooses") if known else ("add --default team URL", "adds")
        raise UserError(f"no default remote is set: `dvc remote {command}` {what} one")
    if name not in known:
        has = ", ".join(known) or "none"
        raise UserError(f"{name} is no remote of this repository: it has {has}; `dvc remote add` adds one")
    scheme = settings["remote"][name]["url"].partition(":")[0]
    try:
        repository = Repo(str(root))
        remote = Remote(repository, name)
    except (RemoteMissingDepsError, ImportError):
        raise UserError(f"the remote {name} needs DVC's plug-in for {scheme}: `pip install dvc-{scheme}`") from None
    except DvcException as error:
        raise UserError(f"the remote {name} cannot be used: {error}") from None
    with repository:
        yield remote


def _remedy(error: BaseException) -> str:
    match error:
        case OSError(errno=28):
            return "make room there"
        case PermissionError():
            return "ask for permission to write there, or check the key (`dvc remote modify --local`)"
        case _:
            return "check that its host can be reached and that you may log in"
