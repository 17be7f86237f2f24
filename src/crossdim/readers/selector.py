"""``path#selector``: which of the images or volumes in a file or folder."""

import os

from crossdim.errors import ReadError


def split_selector(path: str) -> tuple[str, str | None]:
    """Return the file or folder and the selector, if there is one.

    A file whose own name holds the ``#`` is that file.

    Args:
        path: As a user gives it.
    """
    if "#" not in path or os.path.exists(path):
        return path, None
    place = path.rfind("#")
    while place > 0:
        if os.path.exists(path[:place]):
            return path[:place], path[place + 1 :]
        place = path.rfind("#", 0, place)
    head, _, select = path.partition("#")
    return head, select


def choose_index(path: str, select: str | None, count: int, what: str) -> int:
    """Return the number that a selector names, or 0 without one.

    Args:
        path: The file, for the error.
        select: The selector.
        count: How many there are.
        what: What is counted, in words, for the error.

    Raises:
        ReadError: If there is nothing to choose from, or the selector is no number of them.
    """
    if count < 1:
        raise ReadError(path, f"holds no {what}", "Export it again")
    if select is None:
        return 0
    if count == 1 and select != "0":
        raise ReadError(f"{path}#{select}", f"the file holds one {what} only", "Leave out what follows the '#'")
    if not (select.isascii() and select.isdigit() and len(select) < 10 and int(select) < count):
        raise ReadError(f"{path}#{select}", f"is no {what} of the file", f"Use '#0' to '#{count - 1}'")
    return int(select)


def no_selector(path: str, select: str | None) -> None:
    """Refuse a selector where there is nothing to choose from.

    Args:
        path: The file, for the error.
        select: The selector.

    Raises:
        ReadError: If there is one.
    """
    if select is not None:
        raise ReadError(f"{path}#{select}", "the file holds one image or volume only", "Leave out what follows the '#'")
