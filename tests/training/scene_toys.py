"""Tiny scenes of real files: a slanted wall with a coloured patch, seen by a depth camera."""

import json
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from crossdim.datasets.manifest import Header, Manifest, Record, Task
from crossdim.datasets.scene_folder import from_scene_folder

SIZE = (24, 32)
INTRINSICS = [[28.0, 0, 15.5], [0, 28.0, 11.5], [0, 0, 1]]

RECIPE = (
    "model.hidden_size=32", "model.num_attention_heads=2", "model.patch_size=[8, 8]", "model.num_groups=12",
    "model.group_size=8", "model.image_num_hidden_layers=1", "model.image_intermediate_size=32",
    "model.points_num_hidden_layers=1", "model.points_intermediate_size=32", "model.joint_num_hidden_layers=1",
    "model.joint_intermediate_size=32", "decoder.hidden_size=16", "decoder.num_attention_heads=2",
    "decoder.intermediate_size=32", "contract.image_size=[24, 32]", "contract.drawn_points=200",
    "contract.num_points=96", "batch.scenes=4", "batch.images=4", "batch.points=4",
    "optimisation.base_learning_rate=0.02", "logging.log_every=2", "logging.save_every=2", "logging.report_to=none",
    "health.picture_every=0", "health.probe_every=0",
)  # fmt: skip


def write_scene(folder: Path, seed: int, label: int) -> None:
    """Write image, depth and camera of one scene; the label decides on which side the wall comes nearer."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    across = np.linspace(-1, 1, SIZE[1])[None, :] * (1 if label else -1)
    depth = 2.0 + 0.5 * across + 0.02 * rng.standard_normal(SIZE)
    Picture.fromarray((1000 * depth).astype(np.uint16)).save(folder / "depth.png")
    shade = np.linspace(60, 140, SIZE[1])[None, :, None].repeat(SIZE[0], axis=0).repeat(3, axis=2)
    pixels = (shade + rng.integers(0, 20, (*SIZE, 3))).astype(np.uint8)
    row, column = rng.integers(0, 12), rng.integers(0, 20)
    pixels[row : row + 10, column : column + 10] = (220, 30, 30) if label else (30, 30, 220)
    Picture.fromarray(pixels).save(folder / "image.png")
    (folder / "camera.json").write_text(json.dumps({"intrinsics": INTRINSICS, "size": list(SIZE)}))


def make_scenes(root: Path, count: int = 12) -> Manifest:
    """Return a manifest of scenes with a task, two thirds of them to train on."""
    for place in range(count):
        write_scene(root / f"scene{place:02d}", place, place % 2)
    found = from_scene_folder(root)
    records = tuple(
        record.model_copy(update={"labels": {"side": place % 2}, "split": "val" if place // 2 % 3 == 2 else "train"})
        for place, record in enumerate(found.records)
    )
    return Manifest(
        Header(name="toy", root=str(root), tasks={"side": Task(kind="multiclass", classes=("l", "r"))}), records
    )


def without(manifest: Manifest, part: str) -> Manifest:
    """Return the same records without their points or without their image."""

    def less(record: Record) -> Record:
        gone = {"points": {"depth": None}, "image": {"image": None}}[part]
        return record.model_copy(update={"id": f"{record.id}-{part}", "scene": record.scene.model_copy(update=gone)})

    return Manifest(manifest.header, tuple(map(less, manifest.records)))


def mixed(manifest: Manifest) -> Manifest:
    """Return the scenes, and again without points, and again without images."""
    return Manifest(
        manifest.header,
        (*manifest.records, *without(manifest, "points").records, *without(manifest, "image").records),
    )
