"""CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009): found, verified or downloaded."""

import errno
import http.client
import os
import shutil
import socket
import ssl
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samebits.data.raw import RawDataset, RawSplit
from samebits.errors import UserError

if TYPE_CHECKING:
    from samebits.data.vision import CIFAR10

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
CLASS_NAMES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# A network that answers nothing must cost less than 20 s: one deadline for the first answer, one for each read.
_TIMEOUT_SECONDS = 12.0
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)
# What torchvision and tarfile raise for bytes that are not the published ones.
_CONTENT_ERRORS = (RuntimeError, tarfile.TarError, EOFError)
_DOWNLOADING = ".download-"
_DAY_SECONDS = 24 * 3600


class CannotHave(UserError):  # noqa: N818
    """The data is not in `raw` and cannot be downloaded; `reason` says why, the whole also what to do."""

    def __init__(self, why: str, raw: Path) -> None:
        self.reason = f"CIFAR-10 cannot be had: {' '.join(why.split())}"
        super().__init__(
            f"{self.reason}; put {ARCHIVE} into {raw}, or set SAMEBITS_DATA to a folder that holds it, "
            "or set data.source to shapes in params.yaml"
        )


def read(raw: Path, dataset: "type[CIFAR10] | None" = None) -> RawDataset:
    """Read the 50,000 training and 10,000 test images, every file checked against its published MD5.

    They come from the folder that SAMEBITS_DATA names, else from `raw`, else by download into `raw`. A folder holds
    `cifar-10-batches-py` or the archive; it is only read. Raises UserError, naming the file that is wrong.
    """
    dataset = dataset or _published()
    chosen = os.environ.get("SAMEBITS_DATA")
    if not is_at_hand(raw):
        download(raw, dataset)
    # A relative path is meant from the repository, also where a temporary experiment runs in a folder of its own.
    folder = Path(os.environ.get("DVC_ROOT", "")) / chosen if chosen else raw
    with _extracted(folder, bool(chosen), dataset) as root:
        train, test = (_read_split(root, is_train, bool(chosen), dataset) for is_train in (True, False))
    return RawDataset(CLASS_NAMES, train, test)


def is_at_hand(raw: Path) -> bool:
    """Tell whether the data need not be downloaded: it is in `raw`, or the user has named a folder of their own."""
    # A link to nothing counts as well: its target is to be mended, not silently downloaded.
    found = (path.exists() or path.is_symlink() for path in (raw / FOLDER, raw / ARCHIVE))
    return bool(os.environ.get("SAMEBITS_DATA")) or raw.is_file() or any(found)


def download(raw: Path, dataset: "type[CIFAR10] | None" = None) -> None:
    """Download into `raw`, with a progress bar; what is there afterwards is whole.

    Raises CannotHave where the network does not give it, UserError where `raw` cannot be written.
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
            _move_into_place(Path(folder) / FOLDER, raw / FOLDER)
    except (*_NETWORK_ERRORS, *_CONTENT_ERRORS) as error:
        raise CannotHave(f"the download from {dataset.url} failed ({error})", raw) from error
    except OSError as error:
        raise UserError(
            f"CIFAR-10 could not be downloaded into {raw} ({error.strerror}): mend that, or set data.path to another folder"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _published() -> "type[CIFAR10]":
    from samebits.data.vision import CIFAR10  # here, for it takes seconds to import torchvision

    published: type[CIFAR10] = CIFAR10
    return published


def _require_answer(url: str, raw: Path) -> None:
    """Raise CannotHave unless the server answers in time; a thread, for name look-ups obey no time-out."""
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "samebits"})
            urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()
            answers.append(None)
        except Exception as error:  # whatever it is, the answer is no
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_TIMEOUT_SECONDS)
    if not answers:
        raise CannotHave(f"{url} did not answer within {_TIMEOUT_SECONDS:.0f} seconds", raw)
    if answers[0] is not None:
        raise CannotHave(f"{url} could not be reached ({answers[0]})", raw)


def _remove_leftovers(raw: Path) -> None:
    """Remove what killed downloads left. A younger one may still be running, on another machine too."""
    for folder in raw.glob(f"{_DOWNLOADING}*"):
        with suppress(FileNotFoundError):  # it has just ended
            if time.time() - folder.stat().st_mtime > _DAY_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        # Another process was faster: what it put there is whole as well.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


@contextmanager
def _extracted(folder: Path, is_chosen: bool, dataset: "type[CIFAR10]") -> Iterator[Path]:
    """Return a folder that holds the batches: `folder` itself, or a temporary one that its archive was unpacked into."""
    archive = folder if folder.is_file() else folder / ARCHIVE
    if (folder / FOLDER).is_dir():
        yield folder
    elif archive.is_file():
        from samebits.data.vision import check_integrity

        if not check_integrity(archive, dataset.tgz_md5):
            raise _damaged(archive, dataset.tgz_md5, is_chosen)
        with tempfile.TemporaryDirectory(prefix="samebits-") as temporary:
            try:
                with tarfile.open(archive) as tar:
                    # Python 3.11.0 to 3.11.3 has no filters; the MD5 has shown whose archive it is.
                    tar.extraction_filter = getattr(tarfile, "data_filter", None)
                    tar.extractall(temporary)
            except OSError as error:
                raise UserError(
                    f"{archive} could not be unpacked into {temporary} ({error.strerror}): "
                    "make room there, or set TMPDIR to another folder"
                ) from error
            yield Path(temporary)
    else:
        variable = "SAMEBITS_DATA" if is_chosen else "data.path"
        what = f"which holds neither {FOLDER} nor {ARCHIVE}" if folder.is_dir() else "where nothing is"
        raise UserError(f"{variable} names {folder}, {what}: put the folder {FOLDER} or the file {ARCHIVE} there")


def _read_split(root: Path, is_train: bool, is_chosen: bool, dataset: "type[CIFAR10]") -> RawSplit:
    try:
        images: Any = dataset(root, train=is_train)
    except RuntimeError:  # torchvision has found a file wrong, and does not say which
        from samebits.data.vision import check_integrity

        files = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
        for name, md5 in files:
            path = root / FOLDER / name
            if not check_integrity(path, md5):
                raise _damaged(path, md5, is_chosen) from None
        raise
    return RawSplit(np.ascontiguousarray(images.data), np.array(images.targets, dtype=np.int64))


def _damaged(path: Path, md5: str, is_chosen: bool) -> UserError:
    if path.is_file():
        what = f"is damaged: its MD5 is not {md5}"
    else:
        what = "is no file" if path.exists() or path.is_symlink() else "is missing"
    # A batch is downloaded with all the others or not at all.
    removable = path.parent if path.parent.name == FOLDER else path
    remedy = "mend what SAMEBITS_DATA names" if is_chosen else f"remove {removable} to download it again"
    return UserError(f"{path} {what}; {remedy}")
