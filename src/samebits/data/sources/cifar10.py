"""CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009): found, verified or downloaded."""

import http.client
import os
import shutil
import socket
import ssl
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samebits import params
from samebits.data.raw import RawDataset, RawSplit, on_disk
from samebits.errors import UserError
from samebits.processes import in_time

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
_SIDE = 32
CLASS_NAMES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# A silent network must cost less than 20 s: this is the limit for the first answer, and for each read.
_TIMEOUT_SECONDS = 12.0
# A network that fails; and what torchvision and tarfile raise for bytes that are not the published ones.
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)
_CONTENT_ERRORS = (RuntimeError, tarfile.TarError, EOFError)
_DOWNLOADING = ".download-"
_DAY_SECONDS = 24 * 3600


class DownloadFailed(UserError):  # noqa: N818
    """CIFAR-10 is not in `raw` and could not be downloaded. `reason` says why; the text also says what to do."""

    def __init__(self, why: str, raw: Path) -> None:
        self.reason = f"CIFAR-10 could not be downloaded: {' '.join(why.split())}"
        super().__init__(
            f"{self.reason}; put {ARCHIVE} into {raw}, or set SAMEBITS_DATA to a folder that holds it, "
            "or set data.source to shapes in params.yaml"
        )


def read(data: params.Data, root: Path) -> RawDataset:
    """Read CIFAR-10 from `data.path`, relative to `root`; see `load`."""
    return load(root / data.path)


def inspect(data: params.Data, root: Path) -> tuple[Literal["ok", "note"], str]:
    """Check every file against its MD5, if the data is there. Raises UserError if one is wrong."""
    if not is_available(root / data.path):
        return "note", "CIFAR-10's raw files are not here; only prepare needs them, and downloads them"
    dataset = _published()
    with _batches(root / data.path, dataset) as folder:
        _require_published(folder, dataset)
    return "ok", "CIFAR-10's raw files have their published MD5s"


def load(raw: Path, dataset: Any = None) -> RawDataset:
    """Read the 50,000 training and 10,000 test images after checking every file against its published MD5.

    They come from the folder that SAMEBITS_DATA names, else from `raw`, else from a download into `raw`. A folder holds
    `cifar-10-batches-py` or the archive, and is only read. `dataset` is torchvision's class, or a subclass with other files
    and MD5s. Raises UserError, naming the file that is wrong.
    """
    dataset = dataset or _published()
    if not is_available(raw):
        download(raw, dataset)
    with _batches(raw, dataset) as folder:
        train, test = (_read_split(folder, is_train, dataset) for is_train in (True, False))
    return RawDataset(CLASS_NAMES, train, test)


def is_available(raw: Path) -> bool:
    """Return whether no download is needed: the data is in `raw`, or the user has named a folder of their own."""
    # A dangling link counts as well: the user has to repair it, so it must not be downloaded silently.
    found = (path.exists() or path.is_symlink() for path in (raw / FOLDER, raw / ARCHIVE))
    return bool(_chosen()) or raw.is_file() or any(found)


def download(raw: Path, dataset: Any = None) -> None:
    """Download into `raw` with a progress bar; nothing incomplete is left there.

    Raises DownloadFailed if the network fails, UserError if `raw` cannot be written.
    """
    dataset = dataset or _published()
    _require_answer(dataset.url, raw)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        raw.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(raw)
        with tempfile.TemporaryDirectory(prefix=_DOWNLOADING, dir=raw) as folder:
            dataset(folder, download=True)
            try:
                (Path(folder) / FOLDER).rename(raw / FOLDER)
            except OSError:
                if not (raw / FOLDER).is_dir():  # else another process was faster, and its copy is complete as well
                    raise
    except (*_NETWORK_ERRORS, *_CONTENT_ERRORS) as error:
        raise DownloadFailed(f"the download from {dataset.url} failed ({error})", raw) from error
    except OSError as error:
        what = f"CIFAR-10 could not be downloaded into {raw} ({error.strerror})"
        raise UserError(f"{what}: fix that, or set data.path to another folder") from error
    finally:
        socket.setdefaulttimeout(before)


def _chosen() -> str | None:
    """Return the folder or archive that the user has named instead of `data.path`."""
    return os.environ.get("SAMEBITS_DATA")


def _published() -> Any:
    from samebits.data.vision import CIFAR10  # here, because importing torchvision takes seconds

    return CIFAR10


def _require_answer(url: str, raw: Path) -> None:
    """Raise DownloadFailed unless the server answers in time."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "samebits"})
    try:
        in_time(_TIMEOUT_SECONDS, lambda: urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close())
    except Exception as error:  # whatever it is, the answer is no
        raise DownloadFailed(f"{url} could not be reached ({error})", raw) from None


def _remove_leftovers(raw: Path) -> None:
    """Remove what killed downloads left. A recent one may still be running, possibly on another machine."""
    for folder in raw.glob(f"{_DOWNLOADING}*"):
        with suppress(FileNotFoundError):  # it has just ended
            if time.time() - folder.stat().st_mtime > _DAY_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _batches(raw: Path, dataset: Any) -> Iterator[Path]:
    """Yield a folder that holds the batches: the user's or `raw`, or a temporary one with the extracted archive."""
    # A relative path starts at the repository, even if a temporary experiment runs in a folder of its own.
    folder = Path(os.environ.get("DVC_ROOT", "")) / chosen if (chosen := _chosen()) else raw
    archive = folder if folder.is_file() else folder / ARCHIVE
    if (folder / FOLDER).is_dir():
        yield folder
    elif archive.is_file():
        _require_md5(archive, dataset.tgz_md5)
        with tempfile.TemporaryDirectory(prefix="samebits-") as temporary:
            try:
                with tarfile.open(archive) as tar:
                    # Python 3.11.0 to 3.11.3 has no filters; the MD5 has shown that the archive is the published one.
                    tar.extraction_filter = getattr(tarfile, "data_filter", None)
                    tar.extractall(temporary)
            except OSError as error:
                what = f"{archive} could not be extracted into {temporary} ({error.strerror})"
                raise UserError(f"{what}: free some space there, or set TMPDIR to another folder") from error
            yield Path(temporary)
    else:
        variable = "SAMEBITS_DATA" if chosen else "data.path"
        what = f"which holds neither {FOLDER} nor {ARCHIVE}" if folder.is_dir() else "which does not exist"
        raise UserError(f"{variable} names {folder}, {what}: put the folder {FOLDER} or the file {ARCHIVE} there")


def _read_split(folder: Path, is_train: bool, dataset: Any) -> RawSplit:
    labels: list[int] = []

    def batches() -> Iterator[NDArray[np.uint8]]:
        for file in dataset.train_list if is_train else dataset.test_list:
            one = type("OneBatch", (dataset,), {"train_list": [file], "test_list": []})
            try:
                batch = one(folder)
            except RuntimeError:  # torchvision found a wrong file, and does not say which
                _require_published(folder, dataset)
                raise
            labels.extend(batch.targets)
            yield batch.data

    images = on_disk(batches(), (_SIDE, _SIDE, 3))
    return RawSplit(images, np.array(labels, dtype=np.int64))


def _require_published(folder: Path, dataset: Any) -> None:
    """Raise UserError, with the remedy, unless each batch in `folder` has its published MD5."""
    for name, md5 in [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]:
        _require_md5(folder / FOLDER / name, md5)


def _require_md5(path: Path, md5: str) -> None:
    from samebits.data.vision import check_integrity

    if check_integrity(path, md5):
        return
    what = f"is damaged: its MD5 is not {md5}" if path.is_file() else "is missing"
    # A batch is downloaded with all the others or not at all.
    removable = path.parent if path.parent.name == FOLDER else path
    remedy = "repair what SAMEBITS_DATA names" if _chosen() else f"remove {removable} to download it again"
    raise UserError(f"{path} {what}; {remedy}")
