"""Checks our public models against fixtures made with the authors' code.

    python -m tests.parity.run tests/parity/uni4eye.npz [MORE.npz ...] [--float64]

One line per array: its name, error, tolerance, and ``ok``, ``FAIL``, ``input`` or ``not yet``; then one summary line.
The exit code is 0 only if every array that a finished step owns is there and within its own tolerance.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from crossdim.errors import CrossdimError
from tests.parity import med2e3, pimae, uni4eye
from tests.parity.fixture import Fixture

RESULTS: dict[str, Callable[[Fixture, torch.dtype], uni4eye.Values]] = {
    "uni4eye": uni4eye.results,
    "med2e3": med2e3.results,
    "pimae": pimae.results,
}
"""Where our values for a system's arrays come from."""

NOT_YET: dict[str, tuple[str, ...]] = {
    "uni4eye": ("pp.*", "pp2d.*", "pp3d_*", "entropy.*"),
    "med2e3": (),
    "pimae": (),
}
"""Arrays that a later step owns, as patterns of their names, by system."""

Line = tuple[str, str, str, str]


def check(fixture: Fixture, float64: bool) -> list[Line]:
    """Return (name, error, tolerance, verdict) of every array."""
    values: dict[str, Tensor] = {}
    troubles: list[Line] = []
    if fixture.system not in NOT_YET:
        return [(fixture.system, f"unknown system; known: {', '.join(NOT_YET)}", "", "FAIL")]
    troubles += [(f"formula:{key}", "differs from the stated values", "", "FAIL") for key in fixture.wrong_formula()]
    if fixture.system in RESULTS and not troubles:
        try:
            values.update(RESULTS[fixture.system](fixture, torch.float64 if float64 else torch.float32))
        except (CrossdimError, ValueError, KeyError, TypeError, RuntimeError) as error:
            troubles.append((fixture.path.name, f"{type(error).__name__}: {error}", "", "FAIL"))
    return troubles + [_line(fixture, name, values.get(name), float64) for name in fixture.arrays]


def _line(fixture: Fixture, name: str, value: Tensor | None, float64: bool) -> Line:
    if fixture.arrays[name]["compare"] == "input":
        return name, "", "", "input"
    if value is None:
        later = any(fnmatchcase(name, pattern) for pattern in NOT_YET[fixture.system])
        return (name, "", "", "not yet") if later else (name, "not covered", "", "FAIL")
    try:
        array = value.detach().numpy() if isinstance(value, Tensor) else value
        outcome = fixture.compare(name, array, float64)
    except ValueError as error:
        return name, str(error), "", "FAIL"
    return name, f"{outcome.error:.1e}", f"{outcome.tolerance:.1e}", "ok" if outcome.ok else "FAIL"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check fixtures, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.run", description=__doc__.partition("\n")[0])
    parser.add_argument("fixtures", nargs="+", type=Path, metavar="FIXTURE.npz")
    parser.add_argument("--float64", action="store_true", help="run in float64, with the tolerances for it")
    options = parser.parse_args(arguments)
    verdicts: Counter[str] = Counter()
    for path in options.fixtures:
        lines = check(Fixture(path), options.float64)
        verdicts.update(verdict for *_, verdict in lines)
        print(f"{path}")
        for name, error, tolerance, verdict in lines:
            print(f"  {name:<36} {error:>10} {tolerance:>10}  {verdict}")
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("ok", "FAIL", "not yet", "input"))
    print(f"{'FAILED' if verdicts['FAIL'] else 'passed'}: {counts} ({'float64' if options.float64 else 'float32'})")
    return 1 if verdicts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
