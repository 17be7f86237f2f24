"""Files that are there as a whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from crossdim.errors import RecipeError


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file under a temporary name beside its place, then rename it; folders that are missing are made.

    Args:
        path: Where; a file that is there is replaced.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        RecipeError: If nothing can be written there.
    """
    place = Path(path)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        remedy = "Name a file in a folder of yours, with space left"
        raise RecipeError(place, f"cannot be written ({error.strerror})", remedy) from error
