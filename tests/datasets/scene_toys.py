"""Small scenes in files: a level camera that looks at a bumpy wall."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from crossdim.geometry.camera import LEVEL, unproject
from crossdim.samples import Camera

SIZE = (12, 16)
INTRINSICS = np.array([[20.0, 0, 7.5], [0, 20.0, 5.5], [0, 0, 1]])
CAMERA = Camera(INTRINSICS, SIZE, LEVEL)
CAMERA_JSON = {"intrinsics": INTRINSICS.tolist(), "size": list(SIZE)}
BOXES_JSON = [{"label": "wall", "center_m": [0, 2, 0], "size_m": [4, 2, 4], "yaw_rad": 0.0}]


def depth_mm(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1500, 2500, SIZE).astype(np.uint16)


def points_of(seed: int = 0) -> np.ndarray:
    return unproject(depth_mm(seed).astype(np.float32) / 1000, CAMERA).reshape(-1, 3)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def depth(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(depth_mm(seed)).save(path)
    return path


def points(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, points=points_of(seed))
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def scene_folder(folder: Path, seed: int = 0, *, boxes: bool = True) -> Path:
    picture(folder / "image.png", seed)
    depth(folder / "depth.png", seed)
    write_json(folder / "camera.json", CAMERA_JSON)
    if boxes:
        write_json(folder / "boxes.json", BOXES_JSON)
    return folder


def frames_folder(folder: Path, count: int = 3, seed: int = 0) -> Path:
    for frame in range(count):
        picture(folder / "rgb" / f"{frame:04d}.png", seed + frame)
        depth(folder / "depth" / f"{frame:04d}.png", seed + frame)
    write_json(folder / "camera.json", CAMERA_JSON)
    return folder
