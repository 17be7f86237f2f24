"""Every error a user can cause: one line that names what, why, and what to do about it."""

from collections.abc import Iterable
from difflib import get_close_matches
from os import PathLike

LONGEST_REASON = 600
"""Characters of a reason that are shown: damaged files put anything into their headers."""


class CrossdimError(ValueError):
    """A mistake a user can make and mend; its text is one line of printable characters, whatever a file holds.

    Args:
        subject: The file, key or value that is wrong.
        reason: Why it is refused, with the value found and what is allowed.
        remedy: What to do about it, as an imperative sentence without the final full stop.
    """

    def __init__(self, subject: str | PathLike[str], reason: str, remedy: str) -> None:
        self.subject = str(subject)
        self.reason = reason
        self.remedy = remedy
        shown = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."
        message = f"{self.subject}: {shown}. {remedy}."
        super().__init__("".join(sign if sign.isprintable() else " " for sign in message))


class ReadError(CrossdimError):
    """A file that is absent, damaged, of an unknown kind, or not what it says it is."""


class GeometryError(CrossdimError):
    """Slices, affines or cameras that contradict themselves or one another."""


class RecipeError(CrossdimError):
    """A recipe, manifest or command-line value that is unknown or of the wrong type."""


class ContractError(CrossdimError):
    """An input that does not fit the preprocessing a checkpoint was trained with."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``did you mean 'x'? `` for the closest allowed name, or the list of allowed names.

    Args:
        name: What was given.
        allowed: What is allowed.
    """
    names = sorted(allowed)
    close = get_close_matches(name, names, n=1)
    return f"Did you mean '{close[0]}'" if close else f"Use one of: {', '.join(names)}"
