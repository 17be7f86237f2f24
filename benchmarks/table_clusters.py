"""What can be found on a table without learning: whatever is connected above it, in its smallest rectangle."""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.cluster import DBSCAN

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scenes import load_scene
from crossdim.geometry.boxes import as_array
from crossdim.geometry.tightening import smallest_rectangle

Box = dict[str, Any]
Found = dict[str, dict[str, list[Box]]]
"""By scene: the boxes that were found, and the labelled ones (``truth``)."""
Region = tuple[tuple[float, float, float], tuple[float, float, float]]


def clusters(scenes: Manifest, region: Region) -> Found:
    """Return what can be found without learning: whatever is connected above the table, in its smallest rectangle.

    Args:
        scenes: Measured on.
        region: Lowest and highest x, y, z of what is looked at, above the table.
    """
    found: Found = {}
    for record in scenes.records:
        scene = load_scene(scenes, record)
        assert scene.points is not None
        assert scene.boxes is not None
        points = scene.points.points
        points = points[((points > region[0]) & (points < region[1])).all(axis=1)]
        points = np.random.default_rng(0).permutation(points)[:4096]
        numbers = DBSCAN(eps=0.02, min_samples=8).fit_predict(points)
        things = [points[numbers == number] for number in range(numbers.max() + 1)]
        found[record.id] = {
            "boxes": [
                {"box": rounded(_standing(thing)), "objectness": len(thing) / len(points), "probabilities": [1.0]}
                for thing in things
            ],
            "truth": [{"box": rounded(box), "label": "object"} for box in as_array(scene.boxes)],
        }
    return found


def rounded(values: Any) -> Any:
    """Return numbers as plain data, to a tenth of a millimetre.

    Args:
        values: An array or a number.
    """
    return np.round(np.asarray(values, np.float64), 4).tolist()


def _standing(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "7"]:
    """Return the smallest box around points that stands on the table."""
    center, size, yaw = smallest_rectangle(points[:, :2])
    top = points[:, 2].max()
    return np.array([*center, top / 2, *size, top, yaw])
