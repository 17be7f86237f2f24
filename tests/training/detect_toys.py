"""Tiny scenes with boxes: a floor with a cube or a slab or both on it, as points; and their manifest."""

from pathlib import Path

import numpy as np

from crossdim.datasets.manifest import Header, Manifest, Record
from crossdim.datasets.scene_record import SceneBox, SceneFiles

SIZES = {"cube": (0.6, 0.6, 0.6), "slab": (1.4, 0.7, 0.25)}

MODEL = (
    "model.hidden_size=32", "model.num_attention_heads=2", "model.points_num_hidden_layers=1",
    "model.points_intermediate_size=32", "model.joint_num_hidden_layers=1", "model.joint_intermediate_size=32",
)  # fmt: skip
"""Sizes of a detector that begins with random weights."""
RECIPE = (
    "model.num_groups=32", "model.group_size=16", "model.num_queries=32", "model.decoder_num_hidden_layers=2",
    "model.decoder_intermediate_size=32", "contract.drawn_points=400", "contract.num_points=256", "batch.scenes=4",
    "optimisation.base_learning_rate=0.2", "optimisation.epochs=2", "logging.log_every=1", "logging.report_to=none",
    "evaluation.bootstrap=100", "evaluation.pictures=0",
)  # fmt: skip


def make_scene(root: Path, name: str, labels: tuple[str, ...], rng: np.random.Generator) -> SceneFiles:
    """Write the points of a floor of 4 x 4 m with a block for each label, and return the scene with its boxes."""
    floor = np.column_stack([rng.uniform(-2, 2, (400, 2)), rng.normal(0, 0.01, 400)])
    clouds, boxes = [floor], []
    for place, label in enumerate(labels):
        size, yaw = np.array(SIZES[label]), rng.uniform(-np.pi, np.pi)
        center = np.array([-0.9 + 1.8 * place, rng.uniform(-1, 1), size[2] / 2])
        inside = rng.uniform(-0.5, 0.5, (200, 3))
        faces = np.arange(200)
        inside[faces, faces % 3] = np.where(faces % 2, 0.5, -0.5)
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        clouds.append((0.98 * inside * size) @ turn.T + center)
        boxes.append(SceneBox(label=label, center_m=tuple(center), size_m=tuple(size), yaw_rad=float(yaw)))
    np.save(root / f"{name}.npy", np.concatenate(clouds).astype(np.float32))
    return SceneFiles(points=f"{name}.npy", boxes=tuple(boxes))


def make_blocks(root: Path, count: int = 12, seed: int = 0) -> Manifest:
    """Return a manifest of scenes; of six, four train, one validates, one tests. Every sixth scene is empty."""
    root.mkdir(parents=True, exist_ok=True)
    rng, records = np.random.default_rng(seed), []
    for place in range(count):
        labels = (("cube",), ("slab",), ("cube", "slab"), ("slab", "cube"), ("cube", "slab"), ())[place % 6]
        name = f"s{place:02d}"
        split = "val" if place % 6 == 4 else "test" if place % 6 == 2 else "train"
        files = make_scene(root, name, labels, rng)
        records.append(Record(id=name, patient_id=name, kind="scene", scene=files, split=split))
    return Manifest(Header(name="blocks", root=str(root)), tuple(records))


def with_boxes(manifest: Manifest, place: int, boxes: tuple[SceneBox, ...] | None) -> Manifest:
    """Return the manifest with other boxes in one scene."""
    records = list(manifest.records)
    scene = records[place].scene.model_copy(update={"boxes": boxes})
    records[place] = records[place].model_copy(update={"scene": scene})
    return Manifest(manifest.header, tuple(records))
