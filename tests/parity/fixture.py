"""A parity fixture: weights and inputs from a formula, and numbers of the authors' code to compare with.

Everything is read from the fixture: sizes, names, the prefix of every draw, descriptions of the inputs, tolerances.
"""

import ast
import json
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TABLE = re.compile(
    r"(token\d*|pos_embed\d*|position_embeddings?(\.weight)?|(word|token_type)_embeddings\.weight|"
    r"embed_tokens\.weight|modality_\w+|gauss_B|probe)$"
)
GAIN = [(r"first_conv\.0\.weight$", 4.0), (r"text_mlp\.weight$", 12.0)]


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float64 numbers in [0, 1), the same for a name in every version of NumPy."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.random.PCG64(zlib.crc32(name.encode("utf-8"))).random_raw(count)
    return ((np.asarray(raw, np.uint64) >> np.uint64(40)).astype(np.float64) / 2.0**24).reshape(shape)


def unit(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float64 numbers of mean 0 and variance 1."""
    return (2.0 * uniform(name, shape) - 1.0) * math.sqrt(3.0)


def fill(name: str, shape: tuple[int, ...], prefix: str = "") -> np.ndarray:
    """Return the float32 value of a parameter or buffer."""
    z = unit(prefix + name, shape)
    if len(shape) <= 1:
        spread, centre = (0.3, 1.0) if name.endswith("running_var") else (0.1, float(name.endswith("weight")))
        value = centre + spread * z
    elif TABLE.search(name):
        value = 0.5 * z
    else:
        gain = next((g for pattern, g in GAIN if re.search(pattern, name)), 1.0)
        value = gain / math.sqrt(np.prod(shape[1:])) * z
    return np.asarray(value, dtype=np.float32)


@dataclass(frozen=True)
class Outcome:
    """How far a value is from the fixture's; within tolerance if ``error <= tolerance``."""

    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


class Fixture:
    """One fixture: ``NAME.npz`` and ``NAME.json`` side by side."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.js: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as archive:
            self.values = {name: archive[name] for name in archive.files}
        self.system: str = self.js["system"]
        self.prefix: str = self.js["prefix"]
        self.config: dict[str, Any] = self.js["config"]
        self.arrays: dict[str, dict[str, Any]] = self.js["arrays"]

    def wrong_formula(self) -> list[str]:
        """Return the keys for which the formula does not give the values the fixture states."""
        wrong = []
        shapes = {(group, key): tuple(shape) for group, keys in self.js["keys"].items() for key, shape, _ in keys}
        for group, key, first, total in self.js["formula_check"]:
            value = fill(key, shapes[group, key], self.prefix).astype(np.float64)
            if not np.array_equal(value.reshape(-1)[:3], first) or not math.isclose(value.sum(), total, abs_tol=1e-6):
                wrong.append(f"{group}:{key}")
        return wrong

    def state_dict(self, group: str, tables: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Return the authors' state dict; values that are fixed come from the array that their kind names.

        ``tables`` holds such arrays for fixtures that store them in part only; the same run compares that part.
        """
        state = {}
        for key, shape, kind in self.js["keys"][group]:
            if not kind.startswith("fixed:"):
                state[key] = fill(key, tuple(shape), self.prefix)
            elif match := re.search(r"\barray ([\w.]+)", kind):
                name = match[1].rstrip(".")
                whole = self.stored(name) if self.arrays[name]["stored"] == "full" else (tables or {})[name]
                state[key] = whole.astype(np.float32).reshape(shape)
            else:
                state[key] = np.full(shape, int(re.search(r"value \[(-?\d+)\]", kind)[1]), dtype=np.int64)
        return state

    def stored(self, name: str) -> np.ndarray:
        """Return an array that the fixture holds as a whole."""
        assert self.arrays[name]["stored"] == "full", f"{name} is stored in part and cannot be an input"
        return self.values[name].reshape(self.arrays[name]["shape"])

    def input(self, name: str) -> np.ndarray:
        """Return an input, computed from its description or stored as an array."""
        if self.arrays.get(name, {}).get("compare") == "input":
            return self.stored(name)
        return evaluate(self.js["inputs"][name], self.prefix)

    def compare(self, name: str, value: Any, float64: bool = False) -> Outcome:
        """Compare a value as the fixtures' README does, as one error and the tolerance for it."""
        entry = self.arrays[name]
        whole = np.asarray(value)
        if list(whole.shape) != entry["shape"]:
            raise ValueError(f"shape {list(whole.shape)} where the fixture has {entry['shape']}")
        flat = whole.reshape(-1).astype(np.float64)
        part = flat[:: entry["stride"]] if entry["stored"] == "strided" else flat
        reference = self.values[name].reshape(-1).astype(np.float64)
        if entry["compare"] == "exact":
            same = part.shape == reference.shape and bool(np.array_equal(part, reference))
            return Outcome(0.0 if same else float(np.sum(part != reference)), 0.0)
        tolerance = entry["rel_tol_float64" if float64 else "rel_tol"]
        difference = np.abs(part - reference)
        if entry["compare"] == "elementwise":
            known = ~np.isnan(reference)
            if not np.array_equal(known, ~np.isnan(part)):
                return Outcome(math.inf, tolerance)
            allowed = tolerance * np.abs(reference) + 1e-6 * entry["absmax"]
            return Outcome(tolerance * _largest(difference[known], allowed[known]), tolerance)
        scale = entry.get("absmax", np.abs(reference).max())
        error = _largest(difference, scale)
        if "l2" in entry:
            norm = abs(np.sqrt((flat**2).sum()) - entry["l2"])
            error = max(error, _largest(norm, entry["l2"]), _largest(abs(flat.mean() - entry["mean"]), scale))
        return Outcome(error, tolerance)


def _largest(difference: Any, scale: Any) -> float:
    """Return the largest ratio; 0/0 is 0, and NaN stays NaN, which no tolerance admits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(np.equal(difference, 0), 0.0, np.asarray(difference) / scale)
    return float(np.max(ratio, initial=0.0))


FUNCTIONS = {"uniform": uniform, "unit": unit, "floor": np.floor, "float32": np.float32}
OPERATORS = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.float_power,
}
REPEATED = re.compile(r" with (?:every value|rows and columns) repeated (\d+(?:x\d+)*) times")


def evaluate(description: str, prefix: str) -> np.ndarray:
    """Compute an input from its description: ``float32(formula)``, then, maybe, ``, C = formula with … repeated …``.

    >>> evaluate("float32(2 * C), C = uniform('c', (1, 2)) with every value repeated 1x2 times", "").shape
    (1, 4)
    """
    names: dict[str, np.ndarray] = {}
    formula, *definitions = re.split(r", (?=[A-Z] = )", description)
    for definition in definitions:
        name, text = definition.split(" = ", 1)
        repeated = REPEATED.search(text)
        value = _value(ast.parse(text[: repeated.start()] if repeated else text, mode="eval").body, names, prefix)
        times = [int(n) for n in repeated[1].split("x")] if repeated else []
        for axis, count in enumerate(reversed(times), 1):
            value = np.repeat(value, count, axis=-axis)
        names[name] = value
    return _value(ast.parse(_leading_call(formula), mode="eval").body, names, prefix)


def _leading_call(text: str) -> str:
    """Return the first call of a text, without the remarks behind it."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == ")" and depth == 0:
            return text[: place + 1]
    raise ValueError(f"no formula in '{text}'")


def _value(node: ast.expr, names: dict[str, np.ndarray], prefix: str) -> Any:
    """Compute a formula of the functions above, numbers and names; nothing else is understood."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names, prefix)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left, names, prefix), _value(node.right, names, prefix))
    if isinstance(node, ast.List):
        return np.array([_value(item, names, prefix) for item in node.elts])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        function = FUNCTIONS[node.func.id]
        if node.func.id in {"uniform", "unit"}:
            name, shape = (ast.literal_eval(argument) for argument in node.args)
            return function(prefix + name, tuple(shape))
        return function(_value(node.args[0], names, prefix))
    raise ValueError(f"'{ast.unparse(node)}' is not understood")
