"""The demo's part about things: a detector of boxes begins with what was learned from rooms without labels.

It is fine-tuned on the boxes of the training rooms, measured on rooms that neither step has seen, and looks at one of
them. Beside its numbers stands ``shuffled``, which has the same boxes, of another room each.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scenes import scene_of_file
from crossdim.demo import scenes
from crossdim.inference import load_detector
from crossdim.metrics.detection3d import DetectionReport, compare_detections
from crossdim.metrics.resampling import Estimate
from crossdim.outputs.blocks import Paragraph, Picture, Section, Table
from crossdim.outputs.detection_report import detection_sections
from crossdim.outputs.detections import FoundBoxes, box_rows, found_text
from crossdim.outputs.pictures import scene_picture
from crossdim.outputs.report import interval_text
from crossdim.training import detect
from crossdim.training.detection_evaluation import ScenePrediction, measure, protocol_of, read_predictions
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe

Say = Callable[[str], None]

FOLDER = "boxes"
"""Of the run, in the demo's folder; `crossdim detect` finds boxes with it."""

STEPS = 300
"""What this part costs: nearly all of its time is that of these steps."""

SEVERAL = 3
"""Things in the room that is looked at, at least."""

THRESHOLD = 0.5
"""Least score of a box that is shown; that of `crossdim detect`."""

RECIPE = (
    "model.preset=tiny",
    "model.num_queries=48",
    "model.query_features=tokens",
    "model.dropout=0.0",
    "model.decoder_dropout=0.0",
    "model.head_dropout=0.0",
    "loss.angle_class_weight=0.5",
    "loss.angle_residual_weight=0.5",
    "loss.center_weight=10",
    "loss.size_weight=5",
    "loss.giou_weight=1",
    "labels.symmetry=quarter_turn",
    "contract.drawn_points=1024",
    "contract.num_points=1024",
    "contract.region=[[-5.0, 0.0, -2.0], [5.0, 10.0, 2.0]]",
    "augmentation.flip_x=0.5",
    "augmentation.rotation_deg=30",
    "augmentation.scale=[0.85, 1.15]",
    "batch.scenes=6",
    "optimisation.base_learning_rate=0.043",
    "optimisation.max_grad_norm=1.0",
    "optimisation.average=0.998",
    "optimisation.epochs=null",
    "logging.log_every=20",
    "selection.evaluate_every_epochs=10",
    "evaluation.bootstrap=300",
    "evaluation.pictures=0",
)


@dataclass(frozen=True)
class Scores:
    """What the detector scored on rooms that it has not seen.

    Attributes:
        detector: Its report.
        shuffled: The report on the boxes that it found in another room each.
        gains: How much mean average precision it has more than ``shuffled``, at each IoU.
    """

    detector: DetectionReport
    shuffled: DetectionReport
    gains: tuple[Estimate, ...]

    def lines(self) -> list[str]:
        """Return the numbers as lines of the story, one for each IoU."""
        lines = []
        for own, other, gain in zip(self.detector.thresholds, self.shuffled.thresholds, self.gains, strict=True):
            verdict = "better" if gain.low > 0 else "worse" if gain.high < 0 else "within noise"
            precision = interval_text(own.mean_average_precision)
            beside = f"beside shuffled {other.mean_average_precision.value:.3f}"
            lines.append(f"AP{100 * own.iou:.0f} {precision} {beside}; more by {interval_text(gain)}: {verdict}")
        return lines


def tell(folder: Path, say: Say, *, silent: bool = False) -> Section:
    """Tell this part of the story; returns its part of the report.

    Args:
        folder: The demo's folder, with the pre-trained model of points and pictures.
        say: Tells the story, a line at a time.
        silent: Show no progress bars.
    """
    manifest = scenes.rooms(folder / "rooms")
    training = manifest.split("train")
    boxes = sum(len(record.scene.boxes or ()) for record in training.records if record.scene is not None)
    say(f"9. {boxes} labelled boxes in the {len(training)} rooms. What knows points and pictures learns to find such.")
    scores = measured(learn(folder, silent=silent))
    say(f"   In the other {scores.detector.scenes} rooms, beside the same boxes in wrong rooms (shuffled):")
    for line in scores.lines():
        say(f"   {line}")
    found = look(folder, manifest)
    say(f"   A room that no run has seen ({found.name}): {found_text(found)}.")
    for line in table_lines(*box_rows(found, in_camera=False)):
        say(f"   {line}")
    return section(found, scores)


def recipe() -> DetectRecipe:
    """Return what the detector is trained by."""
    return load_recipe(None, DetectRecipe, (*RECIPE, f"optimisation.steps={STEPS}"))


def learn(folder: Path, *, silent: bool) -> Path:
    """Train the detector on the training rooms, or take the run that is there; returns the run.

    Args:
        folder: The demo's folder.
        silent: Show no progress bars.
    """
    rooms, start = folder / "rooms" / "manifest.jsonl", folder / scenes.FOLDER
    return detect.run(rooms, folder / FOLDER, recipe(), start, silent=silent)


def measured(run: Path) -> Scores:
    """Measure what the detector found in the test rooms when its training had ended, beside ``shuffled``.

    Args:
        run: The detector.
    """
    section, seed = recipe().evaluation, recipe().seed
    protocol, resamples = protocol_of(section), section.bootstrap
    classes, found = read_predictions(run / "predictions.jsonl")
    others = shuffled(found)
    own, wrong = ([each.detections(protocol) for each in rooms] for rooms in (found, others))
    truth, groups = [each.truth for each in found], [each.group for each in found]
    report = measure(found, classes, protocol, resamples, seed)
    gains = tuple(
        compare_detections(wrong, own, truth, len(classes), each.iou, groups, resamples, seed)
        for each in report.thresholds
    )
    return Scores(report, measure(others, classes, protocol, resamples, seed), gains)


def shuffled(found: Sequence[ScenePrediction]) -> list[ScenePrediction]:
    """Return every room with what was found in the room before it.

    Args:
        found: Of every room.
    """
    return [replace(each, raw=found[place - 1].raw) for place, each in enumerate(found)]


def look(folder: Path, manifest: Manifest) -> FoundBoxes:
    """Return what the detector finds in one test room, as `crossdim detect` finds it.

    Args:
        folder: The demo's folder.
        manifest: The rooms.
    """
    path = unseen(folder, manifest)
    scene = scene_of_file(str(path))
    boxes = load_detector(folder / FOLDER).boxes(scene, THRESHOLD)
    return FoundBoxes(str(path), replace(scene, boxes=boxes), scene.boxes, THRESHOLD)


def unseen(folder: Path, manifest: Manifest) -> Path:
    """Return the folder of the first test room in which several things stand.

    Args:
        folder: The demo's folder.
        manifest: The rooms.
    """
    scenes_of = [record.scene for record in manifest.split("test").records if record.scene is not None]
    files = next(each for each in scenes_of if len(each.boxes or ()) >= SEVERAL)
    assert files.image is not None
    return folder / "rooms" / Path(files.image).parent


def command(folder: Path) -> str:
    """Return the command that finds the boxes of the unseen room again, and writes them.

    Args:
        folder: The demo's folder.
    """
    room = unseen(folder, scenes.rooms(folder / "rooms"))
    return shlex.join(["crossdim", "detect", str(folder / FOLDER), str(room), "--save", "found/"])


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of text: the first column on the left, numbers on the right; nothing without rows.

    Args:
        columns: Headings.
        rows: As many cells each.
    """
    table = [tuple(columns), *map(tuple, rows)] if rows else []
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table]


def section(found: FoundBoxes, scores: Scores) -> Section:
    """Return the part of the report about boxes.

    Args:
        found: In the unseen room.
        scores: On all test rooms.
    """
    columns, rows = box_rows(found)
    assert found.labelled is not None
    caption = f"{found.name}: {found_text(found)}. Dashed: what is labelled ({len(found.labelled)})."
    picture = Picture.from_figure(
        scene_picture(found.scene, found.labelled), caption, "Boxes over a picture, and in its points from above"
    )
    listed = Table("Boxes found in it, the most certain first", columns, tuple(rows)) if rows else Paragraph("No box.")
    results = detection_sections(scores.detector, {"shuffled": scores.shuffled})
    numbers = [block for part in results for block in part.blocks]
    return Section("Boxes in rooms that no run has seen", (Paragraph(__doc__ or ""), picture, listed, *numbers))
