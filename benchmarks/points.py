"""What choosing and grouping points costs, in paired runs: ``python -m benchmarks.points [--out FILE.json]``.

Farthest-point sampling of 8 clouds, 20,000 to 2,048 points, is run in turn with raw torch-quickfps, so that whatever
else the machine does falls on both; so are neighbours and balls with all distances and ``topk``. How often raw
torch-quickfps breaks ties otherwise than the reference is counted besides. One thread.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch_quickfps
from torch import Tensor

from crossdim.tokens.neighbours import ball_query, nearest_neighbours
from crossdim.tokens.sampling import Backend, farthest_points
from crossdim.training.provenance import git_commit

OUT = Path(__file__).parent / "results" / "pimae" / "points.json"
CLOUDS, POINTS, CHOSEN = 8, 20_000, 2_048


def scattered(clouds: int, points: int, seed: int) -> Tensor:
    """Return clouds of points on the walls, the floor and in the middle of a room, in metres."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(clouds, points, 3, generator=generator) * torch.tensor([6.0, 5.0, 2.5])
    flat = torch.randint(0, 4, (clouds, points), generator=generator)
    for axis in range(3):
        places[..., axis] *= torch.where(flat == axis, 0.01, 1.0)
    return places


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return median milliseconds of each way, run in turn after a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for place in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if place:
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: round(median(times), 3) for name, times in taken.items()}


def sampling(rounds: int) -> dict[str, object]:
    """Time every backend beside raw torch-quickfps with its own settings and with its best tree."""
    points = scattered(CLOUDS, POINTS, 0)

    def ours(backend: Backend) -> Callable[[], Tensor]:
        return lambda: farthest_points(points, CHOSEN, backend=backend)

    def raw(height: int) -> Callable[[], Tensor]:
        return lambda: torch_quickfps.sample_idx(points, CHOSEN, h=height, start_idx=0)

    ways = {"numba": ours("numba"), "torch_quickfps": raw(5), "torch_quickfps_h6": raw(6), "numpy": ours("numpy")}
    times = in_turn(ways, rounds)
    expected = ours("numpy")()
    return {
        "ms": times,
        "over_torch_quickfps": round(times["numba"] / times["torch_quickfps"], 3),
        "over_the_best_tree": round(times["numba"] / min(times["torch_quickfps"], times["torch_quickfps_h6"]), 3),
        "numba_equals_numpy": torch.equal(ours("numba")(), expected),
        "torch_ms": in_turn({"torch": ours("torch")}, 1)["torch"],
    }


def ties(clouds: int) -> dict[str, object]:
    """Count the clouds for which raw torch-quickfps differs from the reference: scattered, and in whole millimetres."""
    found = {}
    for name, unit in (("float32", None), ("millimetres", 1e-3), ("centimetres", 1e-2)):
        points = scattered(clouds, 3000, 1)
        points = points if unit is None else (points / unit).round() * unit
        expected = farthest_points(points, 700)
        raw = torch_quickfps.sample_idx(points, 700, start_idx=0)
        found[name] = int((raw != expected).any(1).sum())
    return {"clouds": clouds, "points": 3000, "chosen": 700, "differ": found}


def groups(clouds: int, points: int, queries: int, rounds: int) -> dict[str, object]:
    """Time neighbours and balls beside all distances."""
    cloud = scattered(clouds, points, 2)
    places = cloud[:, :queries].contiguous()

    def all_neighbours() -> Tensor:
        return torch.cdist(places, cloud).topk(32, largest=False, sorted=True).indices

    def all_balls() -> Tensor:
        order = torch.arange(points).expand(clouds, queries, -1)
        near = torch.where(torch.cdist(places, cloud) < 0.2, order, points)
        return near.topk(64, largest=False, sorted=True).indices

    neighbours = {"ours": lambda: nearest_neighbours(cloud, places, 32), "cdist_and_topk": all_neighbours}
    balls = {"ours": lambda: ball_query(cloud, places, 0.2, 64), "cdist_and_topk": all_balls}
    return {"neighbours_ms": in_turn(neighbours, rounds), "balls_ms": in_turn(balls, rounds)}


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    document = {
        "benchmark": "points",
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "load_before": os.getloadavg(),
        "farthest_points_8_x_20000_to_2048": sampling(given.rounds),
        "ties_of_torch_quickfps": ties(200),
        "groups_8_x_128_of_2048": groups(8, 2048, 128, given.rounds),
        "groups_2048_of_20000": groups(1, 20_000, 2048, given.rounds),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = given.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(given.out)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
