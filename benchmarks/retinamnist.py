"""RetinaMNIST from scratch and after mixed pre-training, on a small budget (a reduced configuration, named as such).

    python -m benchmarks.retinamnist --data DATA      # runs that are not there; then benchmarks.tables
    python -m benchmarks.retinamnist --data DATA --held-out other/manifest.jsonl --task grade

Arms: ``scratch`` (fine-tuning of random weights), ``pretrained`` (the same fine-tuning after masked pre-training on the
unlabelled RetinaMNIST training images together with the hippocampus MR volumes), ``chance`` (the training split's class
frequencies for everyone). One JSON per run, with config, seed, data hash and predictions by id; a run that is there is
not repeated, a killed one goes on. Each run stays below 30 minutes on two cores.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

import crossdim
from crossdim.datasets.decathlon import from_decathlon
from crossdim.datasets.manifest import Header, Manifest
from crossdim.datasets.medmnist import from_medmnist
from crossdim.metrics.classification import evaluate_classification
from crossdim.training import finetune, pretrain
from crossdim.training.provenance import git_commit
from crossdim.training.recipe import FinetuneRecipe, PretrainRecipe
from crossdim.training.recipe_files import load_recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "retinamnist"
ARMS = ("chance", "scratch", "pretrained")

MODEL = (
    "model.preset=tiny",
    "model.num_hidden_layers=6",
    "model.patch_size=[4, 4]",
    "model.volume_patch_size=[8, 8, 8]",
    "contract.image_size=[28, 28]",
)
PRETRAIN = (
    *MODEL,
    "contract.volume_size=[32, 48, 32]",
    "augmentation.crop_scale=[0.4, 1.0]",
    "augmentation.flip_width=0.5",
    "loss.normalise_patches=true",
    "mixing.images=32",
    "mixing.volumes=4",
    "optimisation.base_learning_rate=2e-3",
    "optimisation.epochs=null",
    "optimisation.steps=500",
    "logging.log_every=50",
    "logging.save_every=250",
    "health.picture_every=500",
    "health.probe_every=250",
)
FINETUNE = (
    "labels_depend_on=[]",
    "adaptation.mode=full",
    "adaptation.layer_decay=0.75",
    "head.pooling=mean",
    "augmentation.crop_scale=[0.6, 1.0]",
    "augmentation.flip_width=0.5",
    "augmentation.flip_height=0.5",
    "augmentation.rotation_deg=30",
    "batch.images=32",
    "optimisation.base_learning_rate=2e-3",
    "optimisation.epochs=8",
    "selection.metric=auc",
    "selection.patience=null",
)
SCRATCH = (*MODEL, *FINETUNE, "adaptation.layer_decay=1.0")


def unlabelled(data: Path) -> Manifest:
    """Return the pre-training pool: RetinaMNIST's training images and the hippocampus volumes, without labels.

    Args:
        data: Folder of real data.
    """
    retina = from_medmnist(data / "medmnist" / "retinamnist.npz").split("train")
    hippocampus = from_decathlon(data / "hippocampus")
    records = [
        record.model_copy(
            update={
                "id": f"{name}/{record.id}",
                "paths": tuple(os.path.relpath(path, data) for path in part.resolve(record)),
                "labels": {},
                "split": "train",
                "extra": {},
            }
        )
        for name, part in (("retinamnist", retina), ("hippocampus", hippocampus))
        for record in part.records
    ]
    header = Header(name="RetinaMNIST train and hippocampus", root=str(data), source=__doc__ or "")
    return Manifest(header, tuple(records))


def pretrained_encoder(data: Path, work: Path, seed: int) -> Path:
    """Pre-train for one seed, or go on where a killed run stopped.

    Args:
        data: Folder of real data.
        work: Where runs are kept.
        seed: Of the run.
    """
    manifest = work / "unlabelled.jsonl"
    if not manifest.is_file():
        unlabelled(data).save(manifest)
    recipe = load_recipe(None, PretrainRecipe, (*PRETRAIN, f"seed={seed}"))
    return pretrain.run(manifest, work / f"pretrain-{seed}", recipe)


def classifier(data: Path, work: Path, arm: str, seed: int) -> tuple[Path, FinetuneRecipe]:
    """Fine-tune one arm for one seed; returns the run and its recipe.

    Args:
        data: Folder of real data.
        work: Where runs are kept.
        arm: ``scratch`` or ``pretrained``.
        seed: Of the run.
    """
    manifest = work / "retinamnist.jsonl"
    if not manifest.is_file():
        from_medmnist(data / "medmnist" / "retinamnist.npz").save(manifest)
    encoder = pretrained_encoder(data, work, seed) if arm == "pretrained" else None
    recipe = load_recipe(None, FinetuneRecipe, (*(FINETUNE if encoder else SCRATCH), f"seed={seed}"))
    return finetune.run(manifest, work / f"{arm}-{seed}", recipe, encoder=encoder), recipe


def chances(data: Path, work: Path, arm: str, seed: int, target: Manifest, task: str) -> tuple[np.ndarray, dict]:
    """Return class probabilities for every record of the target, and the configuration that gave them.

    Args:
        data: Folder of real data.
        work: Where runs are kept.
        arm: One of ``ARMS``.
        seed: Of the run.
        target: What to predict.
        task: Task of the target.
    """
    if arm == "chance":
        train = from_medmnist(data / "medmnist" / "retinamnist.npz").split("train")
        own = next(iter(train.header.tasks))
        counts = np.bincount([record.labels[own] for record in train.records], minlength=len(target.task(task).classes))
        return np.tile(counts / counts.sum(), (len(target), 1)), {"prior": "class frequencies of the training split"}
    run, recipe = classifier(data, work, arm, seed)
    sources = [target.resolve(record) for record in target.records]
    return crossdim.load(run).probabilities(sources), recipe.model_dump(mode="json")


def run_one(data: Path, work: Path, out: Path, arm: str, seed: int, target: Manifest, task: str) -> None:
    """Do one run and write its JSON.

    Args:
        data: Folder of real data.
        work: Where runs are kept.
        out: The JSON to write.
        arm: One of ``ARMS``.
        seed: Of the run.
        target: Labelled records to evaluate on.
        task: Task of the target.
    """
    started = time.monotonic()
    predicted, config = chances(data, work, arm, seed, target, task)
    labels = np.array([record.labels[task] for record in target.records])
    patients = [record.patient_id for record in target.records]
    kind, classes = target.task(task).kind, target.task(task).classes
    report = evaluate_classification(predicted, labels, patients, kind, classes, seed=seed)
    document = {
        "benchmark": "retinamnist",
        "arm": arm,
        "seed": seed,
        "evaluated_on": target.header.name,
        "config": config,
        "pretraining": list(PRETRAIN) if arm == "pretrained" else None,
        "data_sha256": target.data_hash(),
        "crossdim": crossdim.__version__,
        "commit": git_commit(),
        "seconds": round(time.monotonic() - started, 1),
        "report": report.to_dict(),
        "labels": {record.id: int(label) for record, label in zip(target.records, labels, strict=True)},
        "predictions": {
            record.id: [round(float(chance), 4) for chance in row]
            for record, row in zip(target.records, predicted, strict=True)
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=None) + "\n", encoding="utf-8")
    temporary.replace(out)
    print(f"{out.name}: {document['seconds']} s")


def main() -> None:
    """Do every run that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("CROSSDIM_DATA", "../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/retinamnist"), help="where runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--held-out", type=Path, help="a manifest to evaluate on instead of RetinaMNIST's test part")
    parser.add_argument("--task", help="task of the held-out manifest; its only one when left out")
    given = parser.parse_args()
    data = given.data.resolve()
    results = RESULTS
    if given.held_out is None:
        target = from_medmnist(data / "medmnist" / "retinamnist.npz").split("test")
    else:
        target, results = Manifest.load(given.held_out), RESULTS / f"held-out-{given.held_out.stem}"
    task = given.task or next(iter(target.header.tasks))
    target = target.for_task(task)
    for seed in given.seeds:
        for arm in given.arms:
            out = results / f"{arm}-{seed}.json"
            if not out.is_file():
                run_one(data, given.work, out, arm, seed, target, task)


if __name__ == "__main__":
    main()
