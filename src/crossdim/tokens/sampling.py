"""Farthest-point sampling (PointNet++, section 3.2).

One reference for every backend, so that a run gives the same indices wherever it is made: float32, squared distances as
``(dx² + dy²) + dz²``, ties to the lowest index. Clouds of unequal sizes are padded and come with ``valid``.

Differs from the authors' code (a CUDA kernel whose order of ties depends on the card): a point is never chosen twice;
the rule that points near the origin are no candidates is an option and off.

``torch-quickfps`` is no backend, although numba is only about as fast: of points equally far away it takes whichever
its tree meets first, which gives other indices for points on a grid (``tests/tokens/test_sampling.py`` shows it).
"""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossdim.errors import ContractError

Backend = Literal["auto", "numba", "numpy", "torch"]

NEAR_ORIGIN = 1e-3
"""Squared metres: what the authors' kernel takes for padding."""

CELL = 128
"""Points of a cell of the compiled sampling."""


def farthest_points(
    points: Float[Tensor, "batch points 3"],
    count: int,
    start: int = 0,
    valid: Bool[Tensor, "batch points"] | None = None,
    skip_near_origin: bool = False,
    backend: Backend = "auto",
) -> Int[Tensor, "batch count"]:
    """Choose points one by one, each the farthest from those chosen before.

    Args:
        points: Clouds in metres.
        count: Points to choose from each cloud.
        start: The first point of every cloud, chosen whatever ``skip_near_origin`` says.
        valid: False where a cloud is padded; padding is never chosen.
        skip_near_origin: Whether points with ``|p|² <= 1e-3`` are left out, as in the authors' kernel.
        backend: What computes it; the result is the same. ``auto``: numba where it can be imported, else numpy; on
            other devices than the processor torch.

    Raises:
        ContractError: A coordinate is not a number, ``start`` is no point, a cloud has fewer than ``count`` points, or
            the backend cannot be imported.
    """
    flat, eligible = clean_points(points, valid)
    check_count(eligible, count)
    check_start(eligible, start)
    if skip_near_origin:
        x, y, z = flat.unbind(-1)
        eligible &= (x * x + y * y) + z * z > NEAR_ORIGIN
        eligible[:, start] = True
        check_count(eligible, count)
    backend = _backend(backend, points.device)
    if backend == "torch":
        return _by_torch(flat, count, start, eligible)
    choose = _by_numba if backend == "numba" else _by_numpy
    pairs = zip(flat.cpu().numpy(), eligible.cpu().numpy(), strict=True)
    return torch.from_numpy(np.stack([choose(*pair, count, start) for pair in pairs])).to(points.device)


def _backend(backend: Backend, device: torch.device) -> Backend:
    if backend == "auto" and device.type != "cpu":
        return "torch"
    if backend in ("numpy", "torch"):
        return backend
    try:
        import numba  # noqa: F401 - it refuses a numpy that it does not know
    except ImportError as error:
        if backend == "auto":
            return "numpy"
        raise ContractError(
            "backend 'numba'", f"cannot be imported ({error})", "Run pip install 'crossdim[points]'"
        ) from None
    return "numba"


def clean_points(
    points: Float[Tensor, "batch points 3"], valid: Bool[Tensor, "batch points"] | None
) -> tuple[Float[Tensor, "batch points 3"], Bool[Tensor, "batch points"]]:
    """Return the points in float32 with zeros for padding, and which of them there are.

    Args:
        points: Clouds in metres.
        valid: False where a cloud is padded.

    Raises:
        ContractError: A coordinate is not a number.
    """
    flat = points.detach().float()
    if valid is None:
        eligible = torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device)
    else:
        flat, eligible = flat.masked_fill(~valid[..., None], 0), valid.clone()
    check_points(flat)
    return flat, eligible


def check_points(points: Float[Tensor, "*batch points 3"]) -> None:
    """Refuse coordinates that are no numbers.

    Raises:
        ContractError: There are such.
    """
    wrong = int((~torch.isfinite(points).all(-1)).sum())
    if wrong:
        raise ContractError(
            f"{wrong} of {points[..., 0].numel()} points", "have coordinates that are NaN or infinite", "Remove them"
        )


def check_start(eligible: Bool[Tensor, "batch points"], start: int) -> None:
    """Refuse a first point that some cloud does not have.

    Raises:
        ContractError: It is out of range or padding.
    """
    if not 0 <= start < eligible.shape[1] or not bool(eligible[:, start].all()):
        raise ContractError(
            f"first point {start}",
            f"is not among the points of every cloud (up to {eligible.shape[1]}, without padding)",
            "Start at the index of a point that every cloud has, such as 0",
        )


def check_count(eligible: Bool[Tensor, "batch points"], count: int) -> None:
    """Refuse clouds with too few points.

    Raises:
        ContractError: A cloud has fewer than ``count``.
    """
    if count < 1:
        raise ContractError(f"{count} points", "are too few to choose", "Choose at least one")
    sizes = eligible.sum(1)
    if bool((sizes < count).any()):
        cloud = int(sizes.argmin())
        raise ContractError(
            f"cloud {cloud} of the batch",
            f"has {int(sizes[cloud])} points to choose {count} from",
            "Leave the cloud out, or choose fewer points",
        )


def _by_numpy(points: NDArray[np.float32], eligible: NDArray[np.bool_], count: int, start: int) -> NDArray[np.int64]:
    x, y, z = np.ascontiguousarray(points.T)
    nearest = np.where(eligible, np.float32(np.inf), np.float32(-1))
    distance, part = np.empty_like(nearest), np.empty_like(nearest)
    chosen = np.empty(count, dtype=np.int64)
    place = start
    for step in range(count):
        chosen[step] = place
        np.subtract(x, x[place], out=distance)
        np.multiply(distance, distance, out=distance)
        for axis in (y, z):
            np.subtract(axis, axis[place], out=part)
            np.multiply(part, part, out=part)
            np.add(distance, part, out=distance)
        np.minimum(nearest, distance, out=nearest)
        nearest[place] = -1
        place = int(nearest.argmax())
    return chosen


def _by_numba(points: NDArray[np.float32], eligible: NDArray[np.bool_], count: int, start: int) -> NDArray[np.int64]:
    order, edges = _cells(points)
    ordered = points[order]
    low, high = np.minimum.reduceat(ordered, edges[:-1]), np.maximum.reduceat(ordered, edges[:-1])
    nearest = np.where(eligible[order], np.float32(np.inf), np.float32(-1))
    place = int(np.flatnonzero(order == start)[0])
    return _compiled_kernel()(np.ascontiguousarray(ordered.T), nearest, order, edges, low, high, count, place)


def _cells(points: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return an order of the points by compact cells, each in ascending order inside, and where each cell begins."""
    side = max(1, round((len(points) / CELL) ** (1 / 3)))
    order = np.argsort(points[:, 0])
    even = len(points) // side**3 * side**3
    cells = order[None, :even]
    for axis in (1, 2):
        cells = cells.reshape(cells.shape[0] * side, -1)
        cells = np.take_along_axis(cells, points[cells, axis].argsort(axis=1), axis=1)
    cells = np.sort(cells.reshape(side**3, -1), axis=1)
    edges = np.arange(0, even + 1, even // side**3)
    if even < len(points):
        edges = np.append(edges, len(points))
    return np.concatenate([cells.ravel(), np.sort(order[even:])]), edges


@lru_cache(maxsize=1)
def _compiled_kernel() -> Callable[..., NDArray[np.int64]]:
    """Return the compiled kernel, from numba's cache where it can keep one."""
    import numba

    kernel = inspect.unwrap(_choose)
    try:
        return numba.njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        return numba.njit(nogil=True)(kernel)


def _choose(
    axes: NDArray[np.float32],
    nearest: NDArray[np.float32],
    order: NDArray[np.int64],
    edges: NDArray[np.int64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    count: int,
    place: int,
) -> NDArray[np.int64]:
    """Choose points cell by cell: a cell whose bounding box is farther than all its distances stays as it is.

    The distance to a box is computed in the same order of operations, and rounding is monotone: never more than the
    distance to a point in it.
    """
    zero, taken = np.float32(0), np.float32(-1)
    x, y, z = axes
    cells = len(edges) - 1
    largest = np.full(cells, np.float32(np.inf))
    where = np.zeros(cells, np.int64)
    chosen = np.empty(count, np.int64)
    for step in range(count):
        chosen[step] = order[place]
        px, py, pz = x[place], y[place], z[place]
        nearest[place] = taken
        for cell in range(cells):
            dx = max(max(low[cell, 0] - px, px - high[cell, 0]), zero)
            dy = max(max(low[cell, 1] - py, py - high[cell, 1]), zero)
            dz = max(max(low[cell, 2] - pz, pz - high[cell, 2]), zero)
            if (dx * dx + dy * dy) + dz * dz > largest[cell]:
                continue
            best = taken
            for point in range(edges[cell], edges[cell + 1]):
                dx, dy, dz = x[point] - px, y[point] - py, z[point] - pz
                nearest[point] = min(nearest[point], (dx * dx + dy * dy) + dz * dz)
                best = max(best, nearest[point])
            largest[cell] = best
            where[cell] = edges[cell]
            while nearest[where[cell]] != best:
                where[cell] += 1
        place = where[0]
        for cell in range(1, cells):
            distance = nearest[where[cell]]
            if distance > nearest[place] or (distance == nearest[place] and order[where[cell]] < order[place]):
                place = where[cell]
    return chosen


def _by_torch(
    points: Float[Tensor, "batch points 3"], count: int, start: int, eligible: Bool[Tensor, "batch points"]
) -> Int[Tensor, "batch count"]:
    x, y, z = (axis.contiguous() for axis in points.unbind(-1))
    nearest = torch.full_like(x, torch.inf).masked_fill_(~eligible, -1)
    place = torch.full((len(x), 1), start, dtype=torch.int64, device=x.device)
    index = torch.arange(x.shape[1], device=x.device)
    chosen = []
    for _ in range(count):
        chosen.append(place)
        distance = (x - x.gather(1, place)).square_()
        distance += (y - y.gather(1, place)).square_()
        distance += (z - z.gather(1, place)).square_()
        nearest = torch.minimum(nearest, distance, out=nearest).scatter_(1, place, -1)
        largest = nearest.amax(1, keepdim=True)
        place = torch.where(nearest == largest, index, len(index)).amin(1, keepdim=True)
    return torch.cat(chosen, 1)


def gather_points(
    values: Float[Tensor, "batch points channels"], index: Int[Tensor, "batch count"]
) -> Float[Tensor, "batch count channels"]:
    """Return the values of chosen points.

    Args:
        values: Coordinates or features.
        index: Of the points.
    """
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
