"""PiMAE's masked pre-training in a reduced configuration, with the three ways of aligning the masks.

    python -m benchmarks.pimae --data DATA                 # runs that are not there; then benchmarks.tables
    python -m benchmarks.pimae --data DATA --arms complement --seeds 0
    python -m benchmarks.pimae --data DATA --held-out other/manifest.jsonl

Data: 240 synthetic rooms (rendered depth with sensor noise) and the 45 real Kinect scenes of OSD, split by scene. Every
arm has the same model, steps and seeds, and differs in which patches are hidden (``ARMS``). Each is evaluated on the
test scenes under all three maskings, because losses under different masks do not compare. Beside every loss stand: the
same model untrained, a constant (points: the k-means centres of all training groups; pixels: the mean of the image's
visible patches; cross-modal: zeros), and ``shuffled`` (the other modality is another scene's). A linear probe asks
the frozen features for the kind of room.

One JSON per run, with config, seed, data hash and losses by scene; a run that is there is not repeated, a killed one
goes on. Each run stays below 30 minutes on two cores.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import crossdim
from crossdim.datasets.manifest import Header, Manifest, Record
from crossdim.datasets.osd import from_osd
from crossdim.datasets.rooms import TASK, make_rooms
from crossdim.datasets.splits import split_by_patient
from crossdim.heads.point_reconstruction import chamfer_distance
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.models.pimae_config import PimaeModelOutput
from crossdim.tokens.grid import pair, patchify
from crossdim.training import pretrain_scenes
from crossdim.training.health_scenes import encode_scenes
from crossdim.training.provenance import git_commit
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
from crossdim.training.scenes import SceneDataset, collate_samples
from crossdim.training.schedule import Draw
from crossdim.transforms.contract import PreprocessingContract

RESULTS = Path(__file__).parent / "results" / "pimae" / "pretraining"
ARMS = ("complement", "uniform", "independent")
"""What a hidden group of points means for the patch it falls into: shown, hidden too, or nothing (see PiMAE)."""

ROOMS = 240
RECIPE = (
    "model.preset=tiny",
    "contract.image_size=[96, 128]",
    "contract.num_points=1024",
    "augmentation.flip_x=0.5",
    "augmentation.rotation_deg=30",
    "augmentation.scale=[0.85, 1.15]",
    "batch.scenes=16",
    "optimisation.base_learning_rate=1.6e-2",
    "optimisation.warmup=0.1",
    "optimisation.epochs=null",
    "optimisation.steps=600",
    "logging.log_every=50",
    "logging.save_every=200",
    "health.picture_every=600",
    "health.probe_every=600",
)
Losses = dict[str, float]


def scenes(data: Path, work: Path) -> Manifest:
    """Return the manifest of rooms and OSD scenes, made now or before.

    Args:
        data: Folder of real data.
        work: Gets the rooms and the manifest.
    """
    path = work / "manifest.jsonl"
    if not path.is_file():
        rooms = make_rooms(work / "rooms", ROOMS, seed=0)
        table_tops = split_by_patient(from_osd(data / "osd_rgbd", validation=0), (0.6, 0.2, 0.2), 0)
        records = (*_moved(rooms, work, "room"), *_moved(table_tops, work, "osd"))
        tasks = {TASK: rooms.header.tasks[TASK]}
        Manifest(Header(name="rooms and table tops", root=str(work), tasks=tasks), records).save(path)
    return Manifest.load(path)


def _moved(manifest: Manifest, work: Path, prefix: str) -> Iterable[Record]:
    """Yield records with their files named from another root."""
    for record in manifest.records:
        assert record.scene is not None
        files = {
            key: os.path.relpath(manifest.absolute(getattr(record.scene, key)), work)
            for key in ("points", "depth", "image")
            if getattr(record.scene, key) is not None
        }
        name = f"{prefix}-{record.id}"
        labels = {task: label for task, label in record.labels.items() if task == TASK}
        scene = record.scene.model_copy(update=files)
        yield record.model_copy(update={"id": name, "patient_id": name, "scene": scene, "labels": labels, "extra": {}})


def samples(manifest: Manifest, model: PimaeForPreTraining, contract: PreprocessingContract) -> SceneDataset:
    """Return scenes without variation; draws and mask noise are the same for every arm and seed.

    Args:
        manifest: The scenes.
        model: Knows patches and groups.
        contract: Of the run.
    """
    return SceneDataset(manifest, contract, model.config, seed=0, cache_bytes=2**30)


@torch.no_grad()
def losses(model: PimaeForPreTraining, dataset: SceneDataset) -> dict[str, dict[str, dict[str, Losses]]]:
    """Return every loss of every scene: by masking, then by scene, then ``own`` and ``shuffled``.

    Args:
        model: Trained or not.
        dataset: Test scenes.
    """
    config = model.eval().config
    trained, found = config.mask_alignment, {}
    batches = [collate_samples([dataset[Draw(0, place)]]) for place in range(len(dataset))]
    for masking in ARMS:
        config.mask_alignment = masking
        found[masking] = {}
        for place, record in enumerate(dataset.manifest.records):
            own, other = batches[place], batches[_other(dataset.manifest, place)]
            output = model(**own)
            shuffled = _shuffled(model, own, other, output.encoded)
            found[masking][record.id] = {"own": _numbers(output), "shuffled": shuffled}
    config.mask_alignment = trained
    return found


def _numbers(output: Any) -> Losses:
    return {name: float(value) for name, value in output.losses.items()}


def _shuffled(
    model: PimaeForPreTraining, own: dict[str, Any], other: dict[str, Any], masks: PimaeModelOutput
) -> Losses:
    """Return the losses with another scene's image, or for the image another scene's points, under the same masks."""
    points = {key: other[key] for key in ("points", "projection", "frame_size")}
    same = {"points_mask": masks.points_mask, "image_noise": masks.image_mask}
    with_image = _numbers(model(**(own | {"pixel_values": other["pixel_values"]} | same)))
    with_points = _numbers(model(**(own | points | same)))
    return {**with_image, "image": with_points["image"]}


def _other(manifest: Manifest, place: int) -> int:
    """Return the next scene of the same source."""
    source = manifest.records[place].id.partition("-")[0]
    same = [index for index, record in enumerate(manifest.records) if record.id.partition("-")[0] == source]
    return same[(same.index(place) + 1) % len(same)]


@torch.no_grad()
def constants(
    model: PimaeForPreTraining, training: SceneDataset, test: SceneDataset, seed: int
) -> dict[str, dict[str, Losses]]:
    """Return the losses of predictions that look at nothing: by masking, then by scene.

    Args:
        model: For its masks, and its features as targets of the cross-modal loss.
        training: Scenes whose groups are pooled.
        test: Scenes.
        seed: Of k-means.
    """
    config = model.eval().config
    pooled = [
        model.pimae.group(collate_samples([training[Draw(0, place)]])["points"]).neighbourhoods.reshape(-1, 3)
        for place in range(0, len(training), max(1, len(training) // 64))
    ]
    centres = KMeans(config.group_size, n_init=1, random_state=seed).fit(torch.cat(pooled).numpy()).cluster_centers_
    shape = torch.from_numpy(centres.astype(np.float32))[None]
    trained, found = config.mask_alignment, {}
    for masking in ARMS:
        config.mask_alignment = masking
        found[masking] = {
            record.id: _constant(model, collate_samples([test[Draw(0, place)]]), shape)
            for place, record in enumerate(test.manifest.records)
        }
    config.mask_alignment = trained
    return found


def _constant(model: PimaeForPreTraining, batch: dict[str, Any], shape: torch.Tensor) -> Losses:
    output = model(**batch)
    patches = patchify(batch["pixel_values"], pair(model.config.patch_size))
    hidden = output.encoded.image_mask.mask.bool()
    mean = patches[~hidden].mean(dim=0)
    groups, counts = output.points_target.flatten(0, 1), output.cross_modal_counts
    return {
        "points": float(chamfer_distance(shape.expand(len(groups), -1, -1), groups, model.config.chamfer)),
        "image": float((patches[hidden] - mean).square().mean()),
        "cross_modal": float((output.cross_modal_target.square().mean(dim=-1) * counts).sum() / counts.sum()),
    }


def probe(model: PimaeForPreTraining, training: SceneDataset, test: SceneDataset, seed: int) -> dict[str, Any] | None:
    """Return what a linear classifier of frozen features says of the kind of each room; None where there are none.

    Args:
        model: Its encoders are frozen.
        training: Scenes, with the kind where they are rooms.
        test: Scenes.
        seed: Of the classifier.
    """
    known = [_labelled(dataset.manifest) for dataset in (training, test)]
    if not all(known):
        return None
    features = [encode_scenes(model, dataset, places) for dataset, places in zip((training, test), known, strict=True)]
    learned, asked = (
        [dataset.manifest.records[place].labels[TASK] for place in places]
        for dataset, places in zip((training, test), known, strict=True)
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, random_state=seed))
    said = classifier.fit(features[0], learned).predict(features[1])
    counts = np.bincount(learned)
    return {
        "accuracy": float(np.mean(said == np.array(asked))),
        "chance": float(np.mean(np.array(asked) == counts.argmax())),
        "predictions": {test.manifest.records[p].id: int(label) for p, label in zip(known[1], said, strict=True)},
        "labels": {test.manifest.records[p].id: label for p, label in zip(known[1], asked, strict=True)},
    }


def _labelled(manifest: Manifest) -> list[int]:
    return [place for place, record in enumerate(manifest.records) if TASK in record.labels]


def run_one(arm: str, seed: int, given: argparse.Namespace, out: Path) -> None:
    """Do one run and write its JSON.

    Args:
        arm: One of ``ARMS``.
        seed: Of the run.
        given: Where the data are, and what is evaluated on.
        out: The JSON to write.
    """
    started, work = time.monotonic(), given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    own = scenes(given.data, work)
    recipe = load_recipe(None, PimaeRecipe, (*RECIPE, f"masking.alignment={arm}", f"seed={seed}"))
    run = pretrain_scenes.run(work / "manifest.jsonl", work / f"{arm}-{seed}", recipe, silent=True)
    target = own.split("test") if given.held_out is None else Manifest.load(given.held_out)
    model, contract = PimaeForPreTraining.from_pretrained(run), PreprocessingContract.from_pretrained(run)
    torch.manual_seed(seed)
    untrained = PimaeForPreTraining(model.config)
    training, test = (samples(part, model, contract) for part in (own.split("train"), target))
    document = {
        "benchmark": "pimae/pretraining",
        "arm": arm,
        "seed": seed,
        "evaluated_on": target.header.name,
        "config": json.loads(recipe.model_dump_json()),
        "training_records": len(training),
        "test_records": len(target),
        "data_sha256": target.data_hash(),
        "crossdim": crossdim.__version__,
        "commit": git_commit(),
        "threads": torch.get_num_threads(),
        "losses": losses(model, test),
        "untrained": losses(untrained, test),
        "constant": constants(model, training, test, seed),
        "probe": {"trained": probe(model, training, test, seed), "untrained": probe(untrained, training, test, seed)},
    }
    document["seconds"] = round(time.monotonic() - started, 1)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
    temporary.replace(out)
    print(f"{out.name}: {document['seconds']} s", flush=True)


def main() -> None:
    """Do every run that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("CROSSDIM_DATA", "../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/pimae"), help="where runs are kept")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", type=Path, help="a manifest of scenes to evaluate on instead of the test part")
    given = parser.parse_args()
    given.data = Path(given.data).resolve()
    results = RESULTS if given.held_out is None else RESULTS / f"held-out-{given.held_out.stem}"
    for seed in given.seeds:
        for arm in given.arms:
            out = results / f"{arm}-{seed}.json"
            if not out.is_file():
                run_one(arm, seed, given, out)


if __name__ == "__main__":
    main()
