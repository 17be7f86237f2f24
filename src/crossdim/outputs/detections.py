"""Boxes found in scenes: as data, as files to look at in space, and as a page."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crossdim.geometry.boxes import as_array, contains, iou_3d, poses_in_camera
from crossdim.outputs.blocks import Block, Document, Facts, Paragraph, Picture, Section, Table, Warnings
from crossdim.outputs.files import write_atomic
from crossdim.outputs.pictures.house import figure_bytes
from crossdim.outputs.pictures.scenes import coloured_points, scene_picture
from crossdim.outputs.pictures.space import colours_of, rgb_of
from crossdim.outputs.pointfile import boxes_ply, points_ply
from crossdim.samples import Boxes3D, Scene

TINT = 0.65
"""How much of its box's colour a point takes."""

MOST_PICTURES = 50
"""A page has pictures of this many scenes at most."""

DIGITS = 6

HOW_TO_READ = (
    "Centres and sizes are in metres, in the frame that the scene's file uses (right-handed, z up); sizes are full "
    "lengths along the box's own x, y and z, and yaw turns it about z, anticlockwise seen from above. Where the camera "
    "is known, the centre is given as the camera has it too: to its right, downwards, and away from it. A score is the "
    "probability of the class times that of any object; it ranks boxes, and is no chance of being right. A box with "
    "hardly a point inside, or one that a more certain box of its class overlaps, is left out (the protocol of VoteNet "
    "and 3DETR). Where boxes are labelled, IoU is what a box and the best labelled one of its class have in common, "
    "as a share of the space of both."
)


@dataclass(frozen=True)
class FoundBoxes:
    """What a detector found in a scene.

    Attributes:
        name: Of the scene, as the user gave it.
        scene: With the boxes that were found.
        labelled: Boxes that the files of the scene say are there; None where they say nothing.
        threshold: Least score.
    """

    name: str
    scene: Scene
    labelled: Boxes3D | None
    threshold: float

    @property
    def boxes(self) -> Boxes3D:
        """Those that were found."""
        assert self.scene.boxes is not None
        return self.scene.boxes


def detection_data(found: FoundBoxes) -> dict[str, Any]:
    """Return the boxes as plain data, in the scene's frame and, where the camera is known, in the camera's.

    ``rotation`` has the box's own axes as columns, in the camera's frame (x right, y down, z forward).

    Args:
        found: Of one scene.
    """
    boxes, camera = found.boxes, found.scene.camera
    rows = label_data(boxes)
    if boxes.scores is not None:
        for row, score in zip(rows, boxes.scores, strict=True):
            row["score"] = round(float(score), DIGITS)
    if camera is not None:
        for row, pose in zip(rows, poses_in_camera(boxes, camera), strict=True):
            row["in_camera"] = {"center_m": _plain(pose[:3, 3]), "rotation": [_plain(each) for each in pose[:3, :3]]}
    return {"path": found.name, "boxes": rows}


def label_data(boxes: Boxes3D) -> list[dict[str, Any]]:
    """Return boxes as the ``boxes.json`` of a scene folder has them.

    Args:
        boxes: In the scene's frame.
    """
    return [
        {
            "label": label,
            "center_m": _plain(center),
            "size_m": _plain(size),
            "yaw_rad": round(float(yaw), DIGITS),
        }
        for label, center, size, yaw in zip(boxes.labels, boxes.centers_m, boxes.sizes_m, boxes.yaws_rad, strict=True)
    ]


def _plain(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) + 0.0 for value in values]


def coloured_cloud(scene: Scene) -> bytes:
    """Return the points of a scene as a PLY file: those in a box in its colour, with its number (from 0; else -1).

    A point in several boxes is the first one's.

    Args:
        scene: With boxes.
    """
    points, colours = coloured_points(scene)
    number = np.full(len(points), -1)
    boxes = scene.boxes
    if boxes is not None and len(boxes):
        for place in reversed(range(len(boxes))):
            number[contains(points, as_array(boxes)[place : place + 1])[0]] = place
        held = number >= 0
        colours[held] = (1 - TINT) * colours[held] + TINT * _tints(boxes)[number[held]] / 255
    return points_ply(points, (255 * colours).round().astype(np.uint8), {"box": number})


def _tints(boxes: Boxes3D) -> np.ndarray:
    tints = colours_of(boxes.labels)
    return np.array([rgb_of(tints[label]) for label in boxes.labels], np.uint8).reshape(-1, 3)


def write_detections(found: FoundBoxes, folder: Path) -> Picture:
    """Write what was found in a scene; returns its picture.

    ``scene.png`` is the picture, ``points.ply`` has the points in their boxes' colours, ``boxes.ply`` the boxes as
    frames, ``detections.json`` what :func:`detection_data` returns, and ``boxes.json`` the boxes as labels, to be
    corrected and learned from.

    Args:
        found: Of one scene.
        folder: Where.

    Raises:
        RecipeError: Nothing can be written there.
    """
    figure = scene_picture(found.scene, found.labelled)
    picture = Picture.from_figure(figure, _caption(found), f"Boxes found in {found.name}")
    write_atomic(folder / "scene.png", figure_bytes(figure))
    write_atomic(folder / "points.ply", coloured_cloud(found.scene))
    write_atomic(folder / "boxes.ply", boxes_ply(found.boxes, _tints(found.boxes)))
    write_atomic(folder / "detections.json", json.dumps(detection_data(found), indent=2) + "\n")
    write_atomic(folder / "boxes.json", json.dumps(label_data(found.boxes), indent=2) + "\n")
    return picture


def found_text(found: FoundBoxes) -> str:
    """Return in words what was found: ``3 boxes with a score of 0.5 at least: 2 x chair, table``.

    Args:
        found: Of one scene.
    """
    count = Counter(found.boxes.labels)
    kinds = ", ".join(f"{number} × {name}" if number > 1 else name for name, number in count.most_common())
    many = f"{len(found.boxes)} box{'' if len(found.boxes) == 1 else 'es'}" if kinds else "no box"
    return f"{many} with a score of {found.threshold:g} at least{f': {kinds}' if kinds else ''}"


def box_rows(found: FoundBoxes, in_camera: bool = True) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the table of the boxes.

    Args:
        found: Of one scene.
        in_camera: Tell where the camera has the boxes, if it is known.
    """
    boxes, camera = found.boxes, found.scene.camera
    columns = ["class", "score", "centre (m)", "size (m)", "yaw (°)"]
    scores = np.ones(len(boxes)) if boxes.scores is None else boxes.scores
    rows = [
        [label, f"{score:.2f}", _metres(center), _metres(size, " × "), f"{_signed(np.rad2deg(yaw), 0)}"]
        for label, score, center, size, yaw in zip(
            boxes.labels, scores, boxes.centers_m, boxes.sizes_m, boxes.yaws_rad, strict=True
        )
    ]
    if camera is not None and in_camera:
        columns.append("right, down, away (m)")
        for row, pose in zip(rows, poses_in_camera(boxes, camera), strict=True):
            row.append(_metres(pose[:3, 3]))
    if found.labelled is not None:
        columns.append("IoU")
        for row, overlap in zip(rows, overlaps(boxes, found.labelled), strict=True):
            row.append(f"{overlap:.2f}")
    return tuple(columns), [tuple(row) for row in rows]


def overlaps(boxes: Boxes3D, labelled: Boxes3D) -> np.ndarray:
    """Return for each box its IoU with the labelled box of its class that it overlaps most; 0 where there is none.

    Args:
        boxes: Found.
        labelled: Of the same scene.
    """
    if not len(boxes) or not len(labelled):
        return np.zeros(len(boxes))
    same = np.array(boxes.labels)[:, None] == np.array(labelled.labels)
    return np.asarray((iou_3d(as_array(boxes), as_array(labelled)) * same).max(axis=1))


def _metres(values: np.ndarray, between: str = ", ") -> str:
    return between.join(_signed(value, 2) for value in values)


def _signed(value: float, digits: int) -> str:
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _caption(found: FoundBoxes) -> str:
    text = f"{found_text(found)}."
    if found.labelled is not None:
        text += f" Dashed: what is labelled ({len(found.labelled)})."
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class ShownScene:
    """A scene on the page.

    Attributes:
        found: Without points and image, which are in the picture.
        picture: From :func:`write_detections`; None leaves it out.
    """

    found: FoundBoxes
    picture: Picture | None

    @classmethod
    def of(cls, found: FoundBoxes, picture: Picture | None) -> "ShownScene":
        """Return a scene without what takes memory.

        Args:
            found: Of the scene.
            picture: Of it.
        """
        return cls(replace(found, scene=replace(found.scene, points=None, image=None)), picture)


def detections_document(scenes: Sequence[ShownScene], provenance: Mapping[str, str]) -> Document:
    """Return what was found in scenes as a report, for :func:`crossdim.outputs.document.save_document`.

    Args:
        scenes: At least one.
        provenance: Model, contract, versions, ...
    """
    sections = [Section(shown.found.name, _blocks(shown)) for shown in scenes]
    total = sum(len(shown.found.boxes) for shown in scenes)
    first = scenes[0].found
    if len(scenes) == 1:
        title, summary = f"Boxes in {first.name}", _caption(first)
    else:
        title = f"Boxes in {len(scenes)} scenes"
        summary = f"{total} boxes with a score of {first.threshold:g} at least."
    sections.append(Section("How to read this", (Paragraph(HOW_TO_READ),)))
    sections.append(Section("Provenance", (Facts(dict(provenance)),)))
    data = {"scenes": [detection_data(shown.found) for shown in scenes], "provenance": dict(provenance)}
    return Document(title, summary, tuple(sections), data)


def _blocks(shown: ShownScene) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if shown.found.scene.warnings:
        blocks.append(Warnings(shown.found.scene.warnings))
    if shown.picture is not None:
        blocks.append(shown.picture)
    columns, rows = box_rows(shown.found)
    blocks.append(Table("Boxes, the most certain first", columns, tuple(rows)) if rows else Paragraph("No box."))
    return tuple(blocks)
