"""Scenes with labelled boxes as training samples: points, an image where it is used, boxes and classes.

A sample depends on (seed, cycle, place) only, so workers, processes and resumption change nothing. Scenes that are
evaluated are drawn as :mod:`crossdim.inference` draws them, the same way each time.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdim.datasets.manifest import Manifest, Record
from crossdim.datasets.scene_record import SceneBox
from crossdim.datasets.scenes import load_scene
from crossdim.errors import ContractError, RecipeError, nearest
from crossdim.geometry.boxes import Symmetry, as_array, canonical_yaws, envelopes
from crossdim.samples import Boxes3D, Scene
from crossdim.training.data import Batch, KeptRecords
from crossdim.training.recipe_detect import LabelsSection
from crossdim.training.scenes import scene_part, thinned
from crossdim.training.schedule import Draw
from crossdim.transforms.augment import generator_for
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.scene_augment import SceneAugmentation, SceneCrop
from crossdim.transforms.scenes import (
    PreparedScene,
    SceneContract,
    collate_scenes,
    draw_points,
    in_words,
    prepare_scene,
    within,
)


@dataclass(frozen=True)
class DetectionParts:
    """What of a manifest a detector can learn from, by split.

    Attributes:
        classes: Names of the classes, in the order of their numbers.
        labelled: All scenes whose boxes are known.
        train: Training split.
        val: Validation split, may be empty.
        test: Test split, may be empty.
        left_out: What is not used, in words, and how many of it.
    """

    classes: tuple[str, ...]
    labelled: Manifest
    train: Manifest
    val: Manifest
    test: Manifest
    left_out: dict[str, int]

    def __iter__(self) -> Iterator[tuple[str, Manifest]]:
        """Yield name and scenes of every split that holds some."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        return ((name, part) for name, part in named if len(part))


def split_scenes(manifest: Manifest, labels: LabelsSection, image: bool, seed: int = 0) -> DetectionParts:
    """Return the labelled scenes by split; a scene without boxes stays, one whose boxes nobody knows does not.

    Args:
        manifest: All records.
        labels: Classes, and how many training scenes.
        image: Whether images are used; otherwise scenes are their points.
        seed: Of the choice of training scenes.

    Raises:
        RecipeError: No training scene has a box, a box is of an unknown class, a labelled scene has no points, or more
            scenes are asked for than there are.
    """
    known = [_used(record, image) for record in manifest.records if boxes_known(record)]
    numbered = [record for record in known if record.split == "train"]
    found = sorted({box.label for record in numbered for box in _boxes(record)})
    if not found:
        raise RecipeError(
            f"manifest '{manifest.header.name}'",
            "has no training scene with a labelled box",
            "Label some (boxes.json beside each), and prepare it with training, validation and test parts",
        )
    classes = labels.classes or tuple(found)
    remedy = "Mend the label, name it in labels.classes, or set labels.other_classes=leave_out"
    labelled, left_out = _with_classes(manifest, known, classes, remedy if labels.other_classes == "refuse" else None)
    train = labelled.split("train")
    if not any(map(_boxes, train.records)):
        raise RecipeError("'labels.classes'", "names no class of a training box", nearest(classes[0], found))
    parts = DetectionParts(classes, labelled, train, labelled.split("val"), labelled.split("test"), left_out)
    return replace(parts, train=few_scenes(train, labels, seed))


def scenes_to_measure(
    manifest: Manifest, classes: Sequence[str], image: bool, other_classes: Literal["refuse", "leave_out"] = "refuse"
) -> tuple[Manifest, dict[str, int]]:
    """Return the labelled scenes that a trained detector can be measured on, and what is not used, as training does.

    Args:
        manifest: Usually one split.
        classes: That the detector knows.
        image: Whether it looks at images; otherwise scenes are their points.
        other_classes: Whether a box of a class that it does not know is refused, or left out.

    Raises:
        RecipeError: There is no labelled scene, one has no points, or a box is of an unknown class.
    """
    known = [_used(record, image) for record in manifest.records if boxes_known(record)]
    if not known:
        reason = "has no scene whose boxes are known in this part"
        raise RecipeError(f"manifest '{manifest.header.name}'", reason, "Choose another part with --split")
    remedy = "Mend the label, or leave such boxes out with --other-classes leave_out"
    return _with_classes(manifest, known, classes, remedy if other_classes == "refuse" else None)


def _with_classes(
    manifest: Manifest, known: Sequence[Record], classes: Sequence[str], remedy: str | None
) -> tuple[Manifest, dict[str, int]]:
    """Return labelled scenes with the boxes of some classes, and what is not used; a remedy refuses other classes."""
    lost = Counter(box.label for record in known for box in _boxes(record) if box.label not in classes)
    if lost and remedy is not None:
        _refuse_other_classes(known, classes, remedy)
    left_out = {f"boxes of class '{name}'": count for name, count in sorted(lost.items())}
    unknown = sum(record.kind == "scene" and not boxes_known(record) for record in manifest.records)
    if unknown:
        left_out["scenes without known boxes"] = unknown
    return Manifest(manifest.header, tuple(_of_classes(record, classes) for record in known)), left_out


def boxes_known(record: Record) -> bool:
    """Return whether a record is a scene of which it is known what is in it, though it be nothing.

    Args:
        record: Of a manifest.
    """
    return record.scene is not None and record.scene.boxes is not None


def _boxes(record: Record) -> tuple[SceneBox, ...]:
    return () if record.scene is None else record.scene.boxes or ()


def _used(record: Record, image: bool) -> Record:
    """Return a scene with what the detector looks at."""
    assert record.scene is not None
    if record.scene.points is None and record.scene.depth is None:
        raise RecipeError(
            f"record '{record.id}'", "has no points, and boxes are found in points", "Take it out of the manifest"
        )
    if image or record.scene.image is None:
        return record
    return record.model_copy(update={"scene": record.scene.model_copy(update={"image": None})})


def _of_classes(record: Record, classes: Sequence[str]) -> Record:
    assert record.scene is not None
    kept = tuple(box for box in _boxes(record) if box.label in classes)
    return record.model_copy(update={"scene": record.scene.model_copy(update={"boxes": kept})})


def _refuse_other_classes(records: Iterable[Record], classes: Sequence[str], remedy: str) -> None:
    for record in records:
        for box in _boxes(record):
            if box.label not in classes:
                raise RecipeError(
                    f"record '{record.id}'",
                    f"has a box of class '{box.label}', which the detector does not know "
                    f"(it knows {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})",
                    remedy,
                )


def few_scenes(training: Manifest, labels: LabelsSection, seed: int) -> Manifest:
    """Return some of the training scenes, in the manifest's order; those of a smaller number are among a larger's.

    Args:
        training: Labelled scenes.
        labels: Knows how many.
        seed: Of the choice.

    Raises:
        RecipeError: There are fewer than asked for, or none of those chosen has a box.
    """
    count = labels.scenes if labels.scenes is not None else max(1, round(labels.fraction * len(training)))
    if count > len(training):
        reason = f"is {count}, and there are {len(training)} labelled training scenes"
        raise RecipeError("'labels.scenes'", reason, "Choose fewer")
    places = np.random.default_rng(seed).permutation(len(training))[:count]
    chosen = Manifest(training.header, tuple(training.records[place] for place in sorted(places)))
    if not any(map(_boxes, chosen.records)):
        key = "fraction" if labels.scenes is None else "scenes"
        raise RecipeError(f"'labels.{key}'", "leaves no training scene that has a box", "Use more, or another seed")
    return chosen


@dataclass(frozen=True, eq=False)
class DetectionSample:
    """What one scene contributes to a batch.

    Attributes:
        scene: As many points as the model sees, the image where it is used, and boxes with their classes.
    """

    scene: PreparedScene


@dataclass(frozen=True)
class Labelling:
    """How boxes become labels.

    Attributes:
        classes: Names, in the order of their numbers.
        outside: Whether a box that does not reach into the points, or whose centre lies outside of the region, is
            refused, left out, or kept.
        symmetry: Turn after which boxes look the same: their yaws are the nearest to 0 of those that describe them.
    """

    classes: tuple[str, ...]
    outside: Literal["refuse", "leave_out", "keep"] = "refuse"
    symmetry: Symmetry = "none"


class DetectionDataset(KeptRecords[PreparedScene]):
    """Labelled scenes, read, prepared by the contract, cut, drawn, varied and thinned.

    Args:
        manifest: Labelled scenes.
        contract: Its part for scenes is used.
        labelling: How boxes become labels.
        seed: Of drawn points and variation.
        skip_near_origin: Whether no token has its place near the origin.
        varied: What is cut out and what is varied; None evaluates: every scene is drawn the same way each time.
        cache_bytes: Memory for prepared scenes.

    Raises:
        ContractError: The contract does not know scenes.
    """

    def __init__(
        self,
        manifest: Manifest,
        contract: PreprocessingContract,
        labelling: Labelling,
        seed: int = 0,
        skip_near_origin: bool = False,
        varied: tuple[SceneCrop, SceneAugmentation] | None = None,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(manifest, contract, seed, cache_bytes)
        self.scene = scene_part(contract)
        self._region = None if self.scene.points is None else self.scene.points.region
        self.labelling, self.skip_near_origin, self.varied = labelling, skip_near_origin, varied

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self.labelling.classes

    def read(self, index: int) -> PreparedScene:
        """Return a scene as the contract makes it, with all its points and its boxes.

        Args:
            index: Place in the manifest.

        Raises:
            ContractError: It does not fit the contract, or a box lies outside of its points or of the region.
        """
        record = self.manifest.records[index]
        scene = load_scene(self.manifest, record)
        prepared = prepare_for_detection(scene, self.scene)
        labels = scene.boxes
        assert labels is not None
        assert prepared.points is not None
        classes = torch.tensor([self.classes.index(name) for name in labels.labels], dtype=torch.int64)
        boxes = torch.from_numpy(as_array(labels))
        if self.labelling.outside != "keep":
            inside = self._inside(boxes, prepared.points)
            if self.labelling.outside == "refuse" and not bool(inside.all()):
                raise self._outside(record, labels, int(inside.int().argmin()))
            boxes, classes = boxes[inside], classes[inside]
        return replace(prepared, boxes=boxes, classes=classes)

    def _inside(self, boxes: Float[Tensor, "boxes 7"], points: Float[Tensor, "points 3"]) -> Bool[Tensor, " boxes"]:
        """Return which boxes reach into the upright box around the points, and have their centre in the region."""
        low, high = envelopes(boxes)
        reaching = ((low <= points.amax(0)) & (high >= points.amin(0))).all(dim=1)
        return reaching if self._region is None else reaching & within(boxes[:, :3], self._region)

    def _outside(self, record: Record, boxes: Boxes3D, place: int) -> ContractError:
        center = boxes.centers_m[place]
        what = f"has a box ({boxes.labels[place]}, centre {', '.join(f'{value:.2f}' for value in center)} m) outside of"
        if self._region is not None and not within(boxes.centers_m, self._region)[place]:
            return ContractError(
                f"record '{record.id}'",
                f"{what} the region that is looked at ({in_words(self._region)})",
                "Mend contract.region or the box, or set labels.outside=leave_out (evaluate: --outside keep)",
            )
        return ContractError(
            f"record '{record.id}'",
            f"{what} its points",
            "Check units and frame with 'crossdim inspect', or set labels.outside=leave_out (evaluate: --outside keep)",
        )

    def drawn(self, draw: Draw) -> PreparedScene:
        """Return a scene with its drawn points, varied if this is for training, before they are thinned.

        Args:
            draw: Which one.
        """
        prepared = self.prepared(draw.place)
        if self.varied is None:
            drawn = draw_points(prepared, self.scene, generator_for(0, 0, 0))
        else:
            generator = generator_for(self.seed, draw.cycle, draw.place)
            crop, augmentation = self.varied
            drawn = augmentation.vary(draw_points(crop.cut(prepared, generator), self.scene, generator), generator)
        assert drawn.boxes is not None
        return replace(drawn, boxes=canonical_yaws(drawn.boxes, self.labelling.symmetry))

    def _sample(self, draw: Draw) -> DetectionSample:
        return DetectionSample(thinned(self.drawn(draw), self.scene, self.skip_near_origin))


def prepare_for_detection(scene: Scene, contract: SceneContract) -> PreparedScene:
    """Return a scene as a detector's contract makes it, with all its points; without its image if none is used.

    Args:
        scene: As read.
        contract: Of the detector.

    Raises:
        ContractError: It has no points, or does not fit the contract.
    """
    if scene.points is None:
        raise ContractError(scene.origin.path, "has no points, and boxes are found in points", "Give points or depth")
    if contract.image is None:
        scene = replace(scene, image=None)
    return replace(prepare_scene(scene, contract), projection=None, frame_size=None)


def collate_detection(samples: Sequence[DetectionSample]) -> Batch:
    """Stack samples into the arguments of ``Detr3dForObjectDetection.forward``.

    Args:
        samples: All with an image or all without.
    """
    batch: Batch = collate_scenes([sample.scene for sample in samples])
    batch["labels"] = [_labels(sample.scene) for sample in samples]
    return batch


def _labels(scene: PreparedScene) -> dict[str, Float[Tensor, "boxes 7"] | Int[Tensor, " boxes"]]:
    assert scene.boxes is not None
    assert scene.classes is not None
    return {"boxes": scene.boxes.float(), "classes": scene.classes}
