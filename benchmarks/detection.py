"""Boxes in scenes, in a reduced configuration: what pre-training, the masks, and the image are worth.

    python -m benchmarks.detection --data DATA             # runs that are not there; then benchmarks.tables
    python -m benchmarks.detection --data DATA --worlds tables --arms scratch complement --seeds 0
    python -m benchmarks.detection --data DATA --held-out other/manifest.jsonl

Two worlds. ``tables``: the 45 real Kinect scenes of OSD by five-fold cross-validation, stratified by arrangement;
every scene is predicted once, by a detector that has not seen it. Pre-training there sees synthetic table tops and no
scene of OSD. ``rooms``: synthetic rooms; pre-training sees the training rooms without their boxes, and boxes are
measured in the test rooms.

Arms of one world have the same architecture, number of layers, preprocessing, labelled scenes, steps and seeds, and
differ in where the weights begin (``ARMS``). Beside the tables stands ``clusters``, which learns nothing: whatever is
connected above the table is one thing.

On tables every run is measured a second time with its boxes fitted to the points in them and near them.

One JSON per run, with config, seed, data hash and boxes by scene; a run that is there is not repeated, a killed one
goes on. Each run stays below 30 minutes on two cores.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.model_selection import StratifiedKFold

import crossdim
from benchmarks.table_clusters import Found, clusters, rounded
from crossdim.datasets.manifest import Manifest
from crossdim.datasets.osd import from_osd
from crossdim.datasets.rooms import make_rooms
from crossdim.datasets.table_tops import make_table_tops
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.training import detect, pretrain_scenes
from crossdim.training.detection_conclusion import Unknown, evaluate_boxes
from crossdim.training.detection_continuation import class_names
from crossdim.training.provenance import git_commit
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
from crossdim.transforms.contract import PreprocessingContract

RESULTS = Path(__file__).parent / "results" / "detection"
FOLDS = 5
TABLE_TOPS = 400
"""Synthetic scenes that pre-training for ``tables`` sees."""
REGION = ((-0.45, -0.55, 0.01), (0.45, 0.45, 0.45))
"""Metres around the middle of a table: what stands on it, without it."""

MARGIN_M = 0.015
"""How near a box on a table points may lie that it is fitted to; chosen by ``benchmarks.tightening``, not on OSD."""

ROOM = ((-5.0, 0.0, -2.0), (5.0, 10.0, 2.0))
"""Metres around all that a camera sees of a synthetic room, in the camera's frame."""


@dataclass(frozen=True)
class Arm:
    """Where a detector begins, and what it looks at.

    Attributes:
        masks: Alignment of the masks of the PiMAE that is pre-trained; that of the others gives sizes alone.
        transfer: What is taken over of it.
        image: Whether the detector looks at the image too.
        labelled: Whether it begins with a detector that was trained on synthetic scenes instead.
        pretraining: Keys of the PiMAE's recipe that are set after all others.
    """

    masks: str = "complement"
    transfer: str = "everything"
    image: bool = False
    labelled: bool = False
    pretraining: tuple[str, ...] = ()


ARMS = {
    "scratch": Arm(transfer="none"),
    "complement": Arm(),
    "uniform": Arm(masks="uniform"),
    "independent": Arm(masks="independent"),
    "low rate": Arm(pretraining=("optimisation.base_learning_rate=1.6e-3",)),
    "official": Arm(transfer="official"),
    "scratch with image": Arm(transfer="none", image=True),
    "complement with image": Arm(image=True),
    "labelled synthetic": Arm(labelled=True),
}
"""``complement``, ``uniform``, ``independent``: pre-trained with these masks, and everything is taken over;
``low rate``: as ``complement``, pre-trained at a tenth of the learning rate; ``official``: the tensors alone that the
authors move, with set abstraction instead of groups; ``labelled synthetic``: as ``complement``, then first trained to
detect on synthetic table tops, whose boxes are known."""

ARMS_OF = {
    "tables": ("scratch", "complement", "labelled synthetic", "scratch with image", "complement with image"),
    "rooms": (
        *("scratch", "complement", "uniform", "independent", "low rate"),
        *("scratch with image", "complement with image"),
    ),
}

PRETRAINING = (
    "model.preset=tiny",
    "model.point_hidden_size=32",
    "contract.image_size=[96, 128]",
    "augmentation.flip_x=0.5",
    "augmentation.scale=[0.85, 1.15]",
    "batch.scenes=16",
    "optimisation.base_learning_rate=1.6e-2",
    "optimisation.warmup=0.1",
    "optimisation.epochs=null",
    "logging.log_every=50",
    "logging.save_every=200",
    "health.picture_every=0",
    "health.probe_every=0",
)
DETECTION = (
    "model.preset=tiny",
    "model.dropout=0.0",
    "model.decoder_dropout=0.0",
    "model.head_dropout=0.0",
    "model.query_features=tokens",
    "loss.angle_class_weight=1",
    "loss.angle_residual_weight=1",
    "loss.center_weight=10",
    "loss.size_weight=5",
    "loss.giou_weight=1",
    "labels.symmetry=quarter_turn",
    "augmentation.flip_x=0.5",
    "augmentation.scale=[0.85, 1.15]",
    "batch.scenes=8",
    "optimisation.base_learning_rate=0.032",
    "optimisation.max_grad_norm=1.0",
    "optimisation.average=0.998",
    "optimisation.epochs=null",
    "logging.log_every=50",
    "evaluation.bootstrap=100",
    "evaluation.pictures=0",
)


@dataclass(frozen=True)
class World:
    """Where scenes come from, and what a model of them needs.

    Attributes:
        scenes: Makes the manifest that pre-training sees, in a folder.
        pretraining: Keys of the recipe.
        detection: Keys of the recipe.
        labelled: Steps of the detector that begins with synthetic scenes.
    """

    scenes: Callable[[Path], Manifest]
    pretraining: tuple[str, ...]
    detection: tuple[str, ...]
    labelled: int = 0


def _table_tops(folder: Path) -> Manifest:
    return make_table_tops(folder, TABLE_TOPS, (180, 240), seed=0, fractions=(1.0, 0.0, 0.0))


def _rooms(folder: Path) -> Manifest:
    return make_rooms(folder, 240, (120, 160), seed=0, fractions=(0.75, 0.0, 0.25))


WORLDS = {
    "tables": World(
        _table_tops,
        (
            *("model.num_groups=64", "model.group_size=32", "model.unit_m=0.2"),
            *(f"contract.region={json.dumps(REGION)}", "contract.drawn_points=512", "contract.num_points=512"),
            *("augmentation.rotation_deg=30", "optimisation.steps=400"),
        ),
        (
            *("model.num_queries=32", "contract.drawn_points=512", "contract.num_points=512"),
            *("augmentation.rotation_deg=30", "optimisation.steps=400"),
        ),
        labelled=1000,
    ),
    "rooms": World(
        _rooms,
        (
            *("model.num_groups=96", "model.group_size=32", "contract.drawn_points=2048", "contract.num_points=2048"),
            *("augmentation.rotation_deg=30", "optimisation.steps=300"),
        ),
        (
            *("model.num_queries=64", "contract.drawn_points=2048", "contract.num_points=2048"),
            f"contract.region={json.dumps(ROOM)}",
            *("augmentation.rotation_deg=30", "optimisation.steps=400"),
        ),
    ),
}


def made(world: str, work: Path) -> Manifest:
    """Return the scenes of a world, made now or before.

    Args:
        world: One of ``WORLDS``.
        work: Gets them.
    """
    path = work / "scenes" / "manifest.jsonl"
    return Manifest.load(path) if path.is_file() else WORLDS[world].scenes(work / "scenes")


def pretraining_keys(world: str, arm: str) -> tuple[str, ...]:
    """Return what the PiMAE of an arm is trained by.

    Args:
        world: One of ``WORLDS``.
        arm: One of ``ARMS``.
    """
    chosen = ARMS[arm]
    return (*PRETRAINING, *WORLDS[world].pretraining, f"masking.alignment={chosen.masks}", *chosen.pretraining)


def pretrained(world: str, arm: str, seed: int, work: Path) -> Path:
    """Return a PiMAE, trained now or before; arms that are pre-trained alike share it.

    Args:
        world: One of ``WORLDS``.
        arm: One of ``ARMS``.
        seed: Of the run.
        work: Gets it.
    """
    made(world, work)
    recipe = load_recipe(None, PimaeRecipe, (*pretraining_keys(world, arm), f"seed={seed}"))
    name = slug(arm) if ARMS[arm].pretraining else ARMS[arm].masks
    return pretrain_scenes.run(work / "scenes" / "manifest.jsonl", work / f"pimae-{name}-{seed}", recipe, silent=True)


def slug(arm: str) -> str:
    """Return an arm's name in files and folders.

    Args:
        arm: One of ``ARMS``.
    """
    return arm.replace(" ", "-")


def detection_recipe(world: str, arm: str, seed: int, *others: str) -> DetectRecipe:
    """Return what a detector is trained by.

    Args:
        world: One of ``WORLDS``.
        arm: One of ``ARMS``.
        seed: Of the run.
        *others: Keys that are set after all others.
    """
    chosen = ARMS[arm]
    own = (f"transfer={chosen.transfer}", f"model.image={str(chosen.image).lower()}", f"seed={seed}")
    return load_recipe(None, DetectRecipe, (*DETECTION, *WORLDS[world].detection, *own, *others))


def beginning(world: str, arm: str, seed: int, work: Path) -> Path:
    """Return the model that an arm's detectors begin with, or take their sizes from.

    Args:
        world: One of ``WORLDS``.
        arm: One of ``ARMS``.
        seed: Of the run.
        work: Gets it.
    """
    start = pretrained(world, arm, seed, work)
    if not ARMS[arm].labelled:
        return start
    recipe = detection_recipe(world, arm, seed, f"optimisation.steps={WORLDS[world].labelled}")
    out = work / f"labelled-{seed}"
    return detect.run(work / "scenes" / "manifest.jsonl", out, recipe, start, silent=True)


def parts(world: str, data: Path, work: Path, held_out: Path | None) -> Iterator[tuple[Manifest, Manifest]]:
    """Yield scenes to learn from and scenes to measure on, which together are all scenes that are measured on.

    Args:
        world: One of ``WORLDS``.
        data: Folder of real data.
        work: Gets synthetic scenes.
        held_out: A manifest to measure on instead; everything else is learned from then.
    """
    if world == "rooms":
        rooms = made(world, work)
        yield rooms.split("train"), rooms.split("test") if held_out is None else Manifest.load(held_out)
        return
    scenes = from_osd(data / "osd_rgbd", validation=0)
    if held_out is not None:
        yield scenes, Manifest.load(held_out)
        return
    kinds = [record.labels["category"] for record in scenes.records]
    for learned, asked in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(kinds, kinds):
        yield _chosen(scenes, learned), _chosen(scenes, asked)


def _chosen(manifest: Manifest, places: Float[np.ndarray, " scenes"]) -> Manifest:
    return Manifest(manifest.header, tuple(manifest.records[place] for place in places))


def boxes_found(run: Path, scenes: Manifest, recipe: DetectRecipe, margin_m: float | None = None) -> Found:
    """Return what a detector finds: by scene, the boxes that the protocol keeps, and the labelled ones.

    Args:
        run: Of the detector.
        scenes: Measured on.
        recipe: Of the detector; its protocol counts.
        margin_m: Boxes are fitted to points this near; None leaves them.
    """
    model, contract = Detr3dForObjectDetection.from_pretrained(run).eval(), PreprocessingContract.from_pretrained(run)
    unknown = Unknown("leave_out", "keep")
    section = recipe.evaluation.model_copy(update={"tighten_m": margin_m})
    measured, _ = evaluate_boxes(model, contract, scenes, section, unknown, recipe.seed)
    classes = measured.dataset.classes
    return {
        each.id: {
            "boxes": [
                {"box": rounded(box), "objectness": rounded(objectness), "probabilities": rounded(chances)}
                for box, objectness, chances in zip(
                    each.raw.boxes, each.raw.objectness, each.raw.class_probabilities, strict=True
                )
            ],
            "truth": [
                {"box": rounded(box), "label": classes[number]}
                for box, number in zip(each.truth.boxes, each.truth.classes, strict=True)
            ],
        }
        for each in measured.found
    }


def seconds_of(run: Path) -> float:
    """Return how long a run took, in all its sessions.

    Args:
        run: Finished.
    """
    sessions = json.loads((run / "run.json").read_text(encoding="utf-8"))["sessions"]
    spans = [[datetime.fromisoformat(each[end]) for end in ("start", "end")] for each in sessions if each.get("end")]
    return sum((end - start).total_seconds() for start, end in spans)


def run_one(world: str, arm: str, seed: int, given: argparse.Namespace, out: Path) -> None:
    """Do one run and write its JSON.

    Args:
        world: One of ``WORLDS``.
        arm: One of ``ARMS``.
        seed: Of the run.
        given: Where the data are, and what is measured on.
        out: The JSON to write.
    """
    work: Path = given.work.resolve() / world
    work.mkdir(parents=True, exist_ok=True)
    start, recipe = beginning(world, arm, seed, work), detection_recipe(world, arm, seed)
    seconds, found, fitted, learned, hashes = 0.0, Found(), Found(), [], []
    for number, (training, test) in enumerate(parts(world, given.data, work, given.held_out)):
        name = f"{slug(arm)}-{seed}-{number}" + ("" if given.held_out is None else "-whole")
        training.save(work / f"{name}.jsonl")
        run = detect.run(work / f"{name}.jsonl", work / name, recipe, start, silent=True)
        seconds += seconds_of(run)
        found |= boxes_found(run, test, recipe)
        if world == "tables":
            fitted |= boxes_found(run, test, recipe, MARGIN_M)
        learned.append(len(training))
        hashes.append(test.data_hash())
    write(
        out,
        {
            "benchmark": f"detection/{world}",
            "arm": arm,
            "seed": seed,
            "evaluated_on": test.header.name,
            "config": json.loads(recipe.model_dump_json()),
            "pretraining": list(pretraining_keys(world, arm)),
            "training_records": learned,
            "test_records": len(found),
            "data_sha256": hashes,
            "crossdim": crossdim.__version__,
            "commit": git_commit(),
            "threads": torch.get_num_threads(),
            "classes": class_names(Detr3dConfig.from_pretrained(run)),
            "scenes": found,
            "fitted": fitted,
            "seconds": round(seconds, 1),
        },
    )


def run_clusters(given: argparse.Namespace, out: Path) -> None:
    """Measure what learns nothing.

    Args:
        given: Where the data are, and what is measured on.
        out: The JSON to write.
    """
    held_out = given.held_out
    scenes = from_osd(given.data / "osd_rgbd", validation=0) if held_out is None else Manifest.load(held_out)
    content = {
        "benchmark": "detection/tables",
        "arm": "clusters",
        "seed": 0,
        "evaluated_on": scenes.header.name,
        "test_records": len(scenes),
        "data_sha256": [scenes.data_hash()],
        "crossdim": crossdim.__version__,
        "commit": git_commit(),
        "classes": ["object"],
        "scenes": clusters(scenes, REGION),
    }
    write(out, content)


def write(out: Path, content: dict[str, Any]) -> None:
    """Write a JSON, whole or not at all.

    Args:
        out: The file.
        content: Of a run.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    temporary.replace(out)
    print(f"{out.name}: {content.get('seconds', 0)} s", flush=True)


def main() -> None:
    """Do every run that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("CROSSDIM_DATA", "../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/detection"), help="where runs are kept")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="all that a world has, unless named")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", type=Path, help="a manifest of scenes with boxes to measure on instead")
    given = parser.parse_args()
    given.data = Path(given.data).resolve()
    for world in given.worlds:
        results = RESULTS / (world if given.held_out is None else f"{world}-held-out-{given.held_out.stem}")
        if world == "tables" and not (results / "clusters.json").is_file():
            run_clusters(given, results / "clusters.json")
        for seed in given.seeds:
            for arm in given.arms or ARMS_OF[world]:
                out = results / f"{slug(arm)}-{seed}.json"
                if not out.is_file():
                    run_one(world, arm, seed, given, out)


if __name__ == "__main__":
    main()
