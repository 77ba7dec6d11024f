"""Files that a user wants written: whether they can be is found out before the work."""

import tempfile
from pathlib import Path

from samebits.errors import UserError, printable


def require_writable(path: Path) -> None:
    """Raise UserError if no file can be written to `path`. Leaves nothing behind, and makes no folder."""
    try:
        if path.is_dir():
            raise UserError(f"{printable(str(path))} is a folder: name the file that is to be written")
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=folder):  # as `atomic.replacing` will
            pass
    except OSError as error:
        raise UserError(f"{printable(str(path))} cannot be written: {error.strerror}") from None
