"""The demo's part about space: one model of points and pictures fills in what is hidden of a room.

Furnished rooms are drawn and seen by a camera with a depth sensor; a small PiMAE learns from them without labels. What
it fills in of rooms that it has never seen is measured beside what can be had without learning.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.rooms import make_rooms
from crossdim.datasets.scenes import load_scene
from crossdim.heads.point_reconstruction import chamfer_distance
from crossdim.masking import visible_first
from crossdim.metrics.resampling import Estimate, estimate, patient_weights
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.models.pimae_config import PimaeConfig, PimaeForPreTrainingOutput
from crossdim.outputs.blocks import Paragraph, Picture, Section, Table
from crossdim.outputs.pictures import scene_picture, scene_reconstruction
from crossdim.outputs.report import interval_text
from crossdim.tokens.grid import pair
from crossdim.training import pretrain_scenes
from crossdim.training.health_scenes import reconstruct_scenes
from crossdim.training.progress import quiet_transformers
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
from crossdim.training.scenes import SceneDataset, collate_samples
from crossdim.training.schedule import Draw
from crossdim.transforms.contract import PreprocessingContract

Say = Callable[[str], None]

FOLDER = "spaces"
"""Of the run, in the demo's folder; `crossdim embed` finds it there."""

ROOMS, SIZE, SEED = 120, (120, 160), 6
RESAMPLES = 1000
TYPICAL_OF = 24
"""Training rooms among whose groups the most typical one is looked for."""

RECIPE = (
    "model.preset=tiny",
    "model.hidden_size=64",
    "model.dropout=0.0",
    "model.patch_size=[8, 8]",
    "model.num_groups=64",
    "model.group_size=32",
    "model.point_hidden_size=16",
    "loss.image_weight=3",
    "contract.image_size=[48, 64]",
    "contract.drawn_points=1024",
    "contract.num_points=1024",
    "batch.scenes=6",
    "optimisation.base_learning_rate=3e-2",
    "optimisation.betas=[0.9, 0.95]",
    "optimisation.warmup=0.1",
    "optimisation.epochs=null",
    "optimisation.steps=340",
    "logging.log_every=20",
    "logging.save_every=170",
    "health.picture_every=0",
    "health.probe_every=0",
)

MODEL, UNTRAINED = "model", "untrained model"
WHAT: Mapping[str, tuple[str, float]] = {
    "image": ("picture, squared error", 1.0),
    "points": ("points, Chamfer distance in cm²", 1e4),
    "cross_modal": ("picture's features at the points, squared error", 1.0),
}
"""What is measured where it was hidden: in words, and the factor on the loss. Pictures have variance 1 in training."""


@dataclass(frozen=True)
class Filled:
    """Errors where something was hidden: means over rooms with their intervals.

    Attributes:
        what: A key of ``WHAT``.
        errors: Who predicted → the error; the model first, then what can be had without learning.
        gain: Model minus the best of the others, room by room.
    """

    what: str
    errors: dict[str, Estimate]
    gain: Estimate

    @property
    def verdict(self) -> str:
        """Whether the model is better than the best of the others, beyond what noise does."""
        if self.gain.low <= 0 <= self.gain.high:
            return "within noise"
        return "better" if self.gain.high < 0 else "worse"

    def line(self) -> str:
        """Return the numbers as a line of the story."""
        model, *others = self.errors.items()
        beside = ", ".join(f"{who} {error.value:.3f}" for who, error in others)
        gain = f"minus the best of these {interval_text(self.gain)}: {self.verdict}"
        return f"   {WHAT[self.what][0]}: {model[0]} {interval_text(model[1])} beside {beside}; {gain}"


def tell(folder: Path, say: Say, *, silent: bool = False) -> Section:
    """Tell this part of the story; returns its part of the report.

    Args:
        folder: The demo's folder.
        say: Tells the story, a line at a time.
        silent: Show no progress bars.
    """
    manifest = rooms(folder / "rooms")
    count = {part: len(manifest.split(part)) for part in ("train", "test")}
    say(f"8. Pictures and points of {sum(count.values())} furnished rooms, as a depth camera sees them. No labels.")
    run = learn(folder, silent=silent)
    say(f"   One model of both learned from {count['train']} of them. What it fills in of the other {count['test']}:")
    filled = measure(run, manifest)
    for each in filled:
        say(each.line())
    return section(run, manifest, filled)


def rooms(folder: Path) -> Manifest:
    """Draw the rooms, or take those that are there.

    Args:
        folder: Gets scene folders and ``manifest.jsonl``.
    """
    if not (folder / "manifest.jsonl").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        make_rooms(folder, ROOMS, SIZE, seed=SEED, fractions=(0.75, 0.0, 0.25))
    return Manifest.load(folder / "manifest.jsonl")


def learn(folder: Path, *, silent: bool) -> Path:
    """Pre-train on the rooms, or take the run that is there; returns the run.

    Args:
        folder: The demo's folder.
        silent: Show no progress bars.
    """
    recipe = load_recipe(None, PimaeRecipe, RECIPE)
    return pretrain_scenes.run(folder / "rooms" / "manifest.jsonl", folder / FOLDER, recipe, silent=silent)


def measure(run: Path, manifest: Manifest) -> list[Filled]:
    """Measure what the model fills in of rooms that it has not seen, beside what can be had without learning.

    Every predictor sees the same parts of a room. The untrained model's features are no measure for features, so it is
    left out there.

    Args:
        run: The model.
        manifest: The rooms.
    """
    unseen, seen = samples(run, manifest, "test"), samples(run, manifest, "train")
    model, config = load_model(run), unseen.config
    torch.manual_seed(SEED)
    untrained = PimaeForPreTraining(config).eval()
    typical = typical_group(torch.cat([_groups(look(model, seen, place))[:2] for place in range(TYPICAL_OF)]))
    found: dict[str, dict[str, list[float]]] = {what: {} for what in WHAT}
    for place in range(len(unseen)):
        output, other = look(model, unseen, place), look(untrained, unseen, place)
        assert output.losses is not None
        assert other.losses is not None
        errors = without_learning(output, config, typical)
        for what, losses in found.items():
            told = {MODEL: float(output.losses[what]), **errors[what]}
            if what != "cross_modal":
                told[UNTRAINED] = float(other.losses[what])
            for who, error in told.items():
                losses.setdefault(who, []).append(WHAT[what][1] * error)
    return [_filled(what, {who: np.array(each) for who, each in losses.items()}) for what, losses in found.items()]


def samples(run: Path, manifest: Manifest, part: str) -> SceneDataset:
    """Return the rooms of one part as the model takes them, without variation.

    Args:
        run: The model.
        manifest: The rooms.
        part: ``train`` or ``test``.
    """
    contract = PreprocessingContract.from_pretrained(run)
    return SceneDataset(manifest.split(part), contract, PimaeConfig.from_pretrained(run), SEED)


def _groups(output: PimaeForPreTrainingOutput) -> Float[Tensor, "groups size 3"]:
    """Return the hidden groups of one room as they are."""
    assert output.points_target is not None
    return output.points_target[0]


@torch.no_grad()
def typical_group(groups: Float[Tensor, "groups size 3"]) -> Float[Tensor, "size 3"]:
    """Return the group from which the others are least far on average.

    Args:
        groups: Points relative to the groups' centres.
    """
    distances = [float(chamfer_distance(group.expand_as(groups), groups)) for group in groups]
    return groups[int(np.argmin(distances))]


@torch.no_grad()
def without_learning(
    output: PimaeForPreTrainingOutput, config: PimaeConfig, typical: Float[Tensor, "size 3"]
) -> dict[str, dict[str, float]]:
    """Return the errors of predictors that have learned nothing, of one room.

    Hidden patches get the mean colour of all visible ones, or of the nearest one; hidden groups the shape of the
    nearest visible group, or a typical one; features zeros.

    Args:
        output: Of a model that saw the room; its targets and masks are used.
        config: Of the model.
        typical: From :func:`typical_group`.
    """
    encoded = output.encoded
    assert encoded is not None
    assert encoded.image_mask is not None
    assert encoded.groups is not None
    assert encoded.points_mask is not None
    assert output.image_target is not None
    assert output.cross_modal_target is not None
    assert output.cross_modal_counts is not None
    hidden = encoded.image_mask.mask[0] > 0
    patches = output.image_target[0].unflatten(-1, (-1, config.num_channels))
    colours, truth = patches[~hidden].mean(dim=1), patches[hidden]
    places = _places(config)
    nearest = torch.cdist(places[hidden], places[~hidden]).argmin(dim=1)
    order, visible = visible_first(encoded.points_mask)
    centers, shapes = encoded.groups.centers[0, order[0]], encoded.groups.neighbourhoods[0, order[0, :visible]]
    copied = shapes[torch.cdist(centers[visible:], centers[:visible]).argmin(dim=1)]
    target, counts = _groups(output), output.cross_modal_counts[0] > 0
    return {
        "image": {
            "mean colour": float((truth - colours.mean(dim=0)).square().mean()),
            "nearest colour": float((truth - colours[nearest][:, None]).square().mean()),
        },
        "points": {
            "typical group": float(chamfer_distance(typical.expand_as(target), target)),
            "nearest group": float(chamfer_distance(copied, target)),
        },
        "cross_modal": {"zeros": float(output.cross_modal_target[0, counts].square().mean())},
    }


def _places(config: PimaeConfig) -> Float[Tensor, "patches 2"]:
    """Return row and column of each patch."""
    size, patch = pair(config.image_size), pair(config.patch_size)
    grid = [size[axis] // patch[axis] for axis in (0, 1)]
    return torch.cartesian_prod(*(torch.arange(count, dtype=torch.float32) for count in grid)).reshape(prod(grid), 2)


@torch.no_grad()
def look(model: PimaeForPreTraining, dataset: SceneDataset, place: int) -> PimaeForPreTrainingOutput:
    """Return what a model makes of one masked room; every model sees the same parts of it.

    Args:
        model: In evaluation mode.
        dataset: From :func:`samples`.
        place: Of the room.
    """
    output: PimaeForPreTrainingOutput = model(**collate_samples([dataset[Draw(0, place)]]))
    return output


def load_model(run: Path) -> PimaeForPreTraining:
    """Return the model of a run with its decoders.

    Args:
        run: From :func:`learn`.
    """
    with quiet_transformers():
        return PimaeForPreTraining.from_pretrained(run).eval()


def _filled(what: str, errors: dict[str, Float[np.ndarray, " rooms"]]) -> Filled:
    """Return means over rooms, with intervals from drawing the rooms anew."""
    others = {who: values for who, values in errors.items() if who != MODEL}
    best = min(others.values(), key=lambda values: float(values.mean()))
    return Filled(what, {who: _mean(values) for who, values in errors.items()}, _mean(errors[MODEL] - best))


def _mean(values: Float[np.ndarray, " rooms"]) -> Estimate:
    weights = np.concatenate(list(patient_weights(np.arange(len(values)), RESAMPLES, SEED)))
    return estimate(float(values.mean()), weights @ values / weights.sum(axis=1), len(values) > 1)


def section(run: Path, manifest: Manifest, filled: list[Filled]) -> Section:
    """Return the part of the report about rooms.

    Args:
        run: The model.
        manifest: The rooms.
        filled: What was measured.
    """
    unseen = samples(run, manifest, "test")
    looked = load_scene(unseen.manifest, unseen.manifest.records[0])
    inspected = Picture.from_figure(
        scene_picture(looked),
        "A room as `crossdim inspect` shows it: the boxes are known, and the model does not see them.",
        "A picture with boxes, and its points from above and obliquely",
    )
    drawn = scene_reconstruction(reconstruct_scenes(load_model(run), unseen, [0, 1]))
    reconstructed = Picture.from_figure(
        drawn, "Rooms that it has not seen, with most of them hidden, filled in.", "Reconstructed rooms"
    )
    rows = tuple(
        (f"{WHAT[each.what][0]}: {who}", interval_text(error)) for each in filled for who, error in each.errors.items()
    )
    table = Table("Errors where it was hidden (95 % intervals by room; less is better)", ("who", "error"), rows)
    return Section("Rooms: points and pictures", (Paragraph(__doc__ or ""), inspected, reconstructed, table))
