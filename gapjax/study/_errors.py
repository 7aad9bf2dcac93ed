"""Errors of functions that the user brings, said in the words of a study."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Name what of the user's raised an error that is none of ours."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{what} raised {type(error).__name__}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
