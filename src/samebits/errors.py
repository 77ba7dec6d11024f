"""What a user sees as one line instead of a traceback."""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# What a machine can refuse without a mistake in the code. A missing file is not among them, because it may be one of ours:
# code that writes to a path that a user names calls `atomic.require_writable` first.
_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


class UserError(Exception):
    """A mistake that the user can fix. Its text is one line: what is wrong, where, what to do."""


@contextmanager
def as_one_line(exit_code: int = 1) -> Iterator[None]:
    """Exit with `exit_code` and one line on stderr for a UserError, or if the machine refuses (disk full, no permission).

    Exit with 130 on an interrupt. Any other exception is a bug and keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        line = str(error)
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        line = f"{error.filename or 'a file'} could not be read or written: {error.strerror}"
    except KeyboardInterrupt:
        sys.exit(130)
    else:
        return
    print(f"error: {line}", file=sys.stderr)
    sys.exit(exit_code)


def printable(text: str) -> str:
    r"""Return `text` on one line without control characters: a newline as \n, a byte that is not UTF-8 as its code."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def last_mistake(printed: str) -> str | None:
    """Return the last mistake that a process has told in what it printed (`as_one_line`); None if it told none."""
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    return printable(lines[-1].removeprefix("error: ").strip()) if lines else None


def listed(things: Sequence[object], number: int = 3) -> str:
    """Name the first `number` of some things, and say how many more there are."""
    more = f" and {len(things) - number} more" if len(things) > number else ""
    return ", ".join(map(str, things[:number])) + more
