"""Med-2E3 in reduced configurations: questions with exact answers about real and synthesised anatomy, reports, VQA-RAD.

    python -m benchmarks.med2e3 --data DATA                       # runs that are not there; then benchmarks.tables
    python -m benchmarks.med2e3 --data DATA --sets heads --arms tgis --seeds 0
    python -m benchmarks.med2e3 --data DATA --sets hippocampus --held-out other/manifest.jsonl

Sets: ``hippocampus`` (200 T1 crops of the Medical Segmentation Decathlon, random coronal fields of view), ``heads``
(15 label maps of SynthSeg as volumes of random contrast, random axial fields of view, half of them of one side),
``reports`` (as hippocampus, reports and presence), ``vqa_rad`` (2D; split by image). Splits are by subject. Every arm
has the same towers (a small Uni4Eye encoder as 3D and as 2D tower), question encoder, language model from scratch and
number of steps; see ``ARMS`` for what differs. Beside every arm stand the question alone (``blind``: the most frequent
training answer) and the model shown another subject's volume (``shuffled``).

One JSON per run, with config, seed, data hash and predictions by id; a run that is there is not repeated, a killed one
goes on. Each run stays below 30 minutes on two cores.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import crossdim
from crossdim.datasets.anatomy_asking import QuestionType
from crossdim.datasets.anatomy_cases import Case
from crossdim.datasets.anatomy_questions import AnatomyOptions, build_anatomy_questions
from crossdim.datasets.anatomy_seen import Rules
from crossdim.datasets.anatomy_views import Views
from crossdim.datasets.labelmaps import read_names
from crossdim.datasets.manifest import Header, Manifest, Record
from crossdim.datasets.splits import split_by_patient
from crossdim.datasets.vqa_rad import from_vqa_rad
from crossdim.inference import load_answerer
from crossdim.models.uni4eye import Uni4EyeForPreTraining
from crossdim.training import instruct, pretrain
from crossdim.training.configs import model_config
from crossdim.training.dialogue_evaluation import Evaluating, evaluate_dialogues
from crossdim.training.provenance import git_commit
from crossdim.training.recipe import PretrainRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_instruct import InstructRecipe
from crossdim.transforms.contract import ImageContract, PercentileIntensity, PreprocessingContract, VolumeContract

RESULTS = Path(__file__).parent / "results" / "med2e3"
ASKED_OF_HEADS = ("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "lateral ventricle",
                  "brain-stem", "4th ventricle", "cerebellum cortex")  # fmt: skip
"""Structures of the heads that are asked about; the others stay in the volumes."""

ENCODER = (
    "model.preset=tiny",
    "model.hidden_size=96",
    "model.num_hidden_layers=3",
    "model.num_attention_heads=4",
    "model.intermediate_size=384",
)
PRETRAIN = (
    *ENCODER,
    "augmentation.crop_scale=[0.6, 1.0]",
    "augmentation.flip_width=0.0",
    "loss.normalise_patches=true",
    "mixing.images=64",
    "mixing.volumes=16",
    "optimisation.base_learning_rate=4e-3",
    "optimisation.epochs=null",
    "optimisation.steps=400",
    "logging.log_every=50",
    "logging.save_every=200",
    "health.picture_every=400",
    "health.probe_every=400",
)
INSTRUCT = (
    "language.hidden_size=96",
    "language.num_hidden_layers=3",
    "language.num_attention_heads=4",
    "language.intermediate_size=256",
    "model.question.hidden_size=96",
    "model.question.num_hidden_layers=1",
    "model.question.num_attention_heads=4",
    "model.question.intermediate_size=192",
    "learning.vision3d=frozen",
    "scoring.temperature=1.0",
    "prompt.style=chat",
    "optimisation.base_learning_rate=1.5e-2",
    "optimisation.betas=[0.9, 0.98]",
    "optimisation.weight_decay=0.05",
    "optimisation.warmup=0.05",
    "optimisation.epochs=null",
    "logging.log_every=50",
)
ARMS: dict[str, tuple[str, ...]] = {
    "tgis": (),
    "tgis-slices": ("scoring.slice_loss_weight=0.5",),
    "uniform": ("scoring.slice_weights=uniform",),
    "2d-only": ("scoring.fusion=2d_only", "scoring.slice_weights=tgis_2d_only"),
    "3d-only": ("scoring.fusion=3d_only", "learning.vision3d=train"),
    "tgis-pretrained": (),
}
"""What differs from the recipe: ``tgis`` is Med-2E3 with random towers, trained on answers alone; ``-slices`` is also
told which slices show what is asked about; ``uniform`` averages the slices; ``3d-only`` has no slices, and its 3D tower
learns, for it is frozen elsewhere; ``-pretrained`` starts from towers that were pre-trained on the training volumes and
their slices, without questions."""


@dataclass(frozen=True)
class Set:
    """Questions, and what it takes to learn them.

    Attributes:
        build: (data, folder) → manifest with parts; writes what it makes into the folder.
        size: Of the volumes that the model sees; None for images.
        orientation: Of them.
        patch: Of the 3D tower, (depth, height, width); the 2D tower's is (height, width).
        arms: Arms that are run.
        keys: Of the recipe.
    """

    build: Callable[[Path, Path], Manifest]
    size: tuple[int, int, int] | None
    orientation: str
    patch: tuple[int, int, int]
    arms: tuple[str, ...]
    keys: tuple[str, ...]


def hippocampus(data: Path, folder: Path) -> Manifest:
    """Ask about random coronal fields of view of the hippocampus crops.

    Args:
        data: Folder of real data.
        folder: Gets the volumes.
    """
    return _of_hippocampi(data, folder, ("presence", "comparison", "count"))


def reports(data: Path, folder: Path) -> Manifest:
    """Ask for reports on random coronal fields of view of the hippocampus crops.

    Args:
        data: Folder of real data.
        folder: Gets the volumes.
    """
    return _of_hippocampi(data, folder, ("presence", "report"))


def _of_hippocampi(data: Path, folder: Path, types: tuple[QuestionType, ...]) -> Manifest:
    root = data / "hippocampus"
    cases = [
        Case(path.name.removesuffix(".nii.gz"), path.name.removesuffix(".nii.gz"), str(root / "labels" / path.name),
             str(path))
        for path in sorted((root / "images").glob("*.nii.gz"))
    ]  # fmt: skip
    options = AnatomyOptions(
        names={1: "anterior hippocampus", 2: "posterior hippocampus"},
        types=types,
        rules=Rules(plane="coronal", min_slices=3, min_share=0.1, margin_mm=2.0),
        views=Views(count=8, coverage=(0.25, 0.7), lateral=0.0),
        name="hippocampus fields of view",
    )
    return build_anatomy_questions(cases, folder, options)


def heads(data: Path, folder: Path) -> Manifest:
    """Ask about random axial fields of view of synthesised heads.

    Args:
        data: Folder of real data.
        folder: Gets the volumes.
    """
    root = data / "synthseg_labelmaps"
    every = read_names(root / "labels table.txt")
    names = {value: name for value, name in every.items() if any(word in name for word in ASKED_OF_HEADS)}
    maps = sorted((root / "training_label_maps").iterdir())
    cases = [Case(path.name.split(".")[0], path.name.split(".")[0], str(path)) for path in maps]
    options = AnatomyOptions(
        names=names,
        types=("presence", "side", "comparison"),
        rules=Rules(plane="axial", min_slices=3, min_share=0.5, margin_mm=4.0),
        views=Views(count=4, coverage=(0.25, 0.6), lateral=0.5),
        synthetic=8,
        spacing_mm=(3.0, 3.0, 3.0),
        unnamed="ignore",
        texts_per_type=24,
        fractions=(0.67, 0.07, 0.26),
        name="synthesised heads, fields of view",
    )
    return build_anatomy_questions(cases, folder, options)


def vqa_rad(data: Path, folder: Path) -> Manifest:
    """Return VQA-RAD's closed questions, split by image.

    Args:
        data: Folder of real data.
        folder: Gets the manifest.
    """
    whole = split_by_patient(from_vqa_rad(data / "vqa_rad"), (0.7, 0.1, 0.2), 0, stratify="organ")
    records = []
    for record in whole.records:
        closed = tuple(each for each in record.dialogues if each.turns[0].form == "closed")
        if closed:
            records.append(record.model_copy(update={"dialogues": closed}))
    manifest = Manifest(whole.header, tuple(records))
    manifest.save(folder / "manifest.jsonl")
    return manifest


SETS = {
    "hippocampus": Set(hippocampus, (16, 32, 32), "PIL", (4, 8, 8), tuple(ARMS),
                       ("batch.volumes=16", "batch.questions_per_volume=4", "optimisation.steps=450")),
    "heads": Set(heads, (24, 48, 48), "SPL", (4, 12, 12), ("tgis", "tgis-slices", "uniform"),
                 ("batch.volumes=16", "batch.questions_per_volume=8", "optimisation.steps=400")),
    "reports": Set(reports, (16, 32, 32), "PIL", (4, 8, 8), ("tgis-slices",),
                   ("batch.volumes=24", "batch.questions_per_volume=3", "optimisation.steps=300")),
    "vqa_rad": Set(vqa_rad, None, "", (4, 16, 16), ("tgis",),
                   ("batch.images=24", "batch.questions_per_volume=4", "optimisation.steps=200")),
}  # fmt: skip


def contract(which: Set) -> PreprocessingContract:
    """Return the preprocessing of a set; images of a set of volumes are its slices.

    Args:
        which: The set.
    """
    if which.size is None:
        return PreprocessingContract(image=ImageContract(size=(128, 128), channels=1, fit="pad"), source="benchmark")
    volume = VolumeContract(size=which.size, orientation=which.orientation, intensity=PercentileIntensity())
    image = ImageContract(size=which.size[1:], channels=1)
    return PreprocessingContract(image=image, volume=volume, source="benchmark")


def encoder(name: str, work: Path, seed: int, *, pretrained: bool) -> Path:
    """Return the towers of a set: random, or pre-trained on the training volumes and their slices.

    Args:
        name: Of the set.
        work: Where the set's runs are kept.
        seed: Of the run.
        pretrained: Whether it has learned something.
    """
    which = SETS[name]
    contract(which).save_pretrained(work)
    patches = (
        f"model.patch_size={list(which.patch[1:])}",
        f"model.volume_patch_size={list(which.patch)}",
        f"contract.file={work / 'contract.json'}",
    )
    recipe = load_recipe(None, PretrainRecipe, (*PRETRAIN, *patches, f"seed={seed}"))
    if pretrained:
        return pretrain.run(unlabelled(work), work / f"pretrain-{seed}", recipe, silent=True)
    folder = work / f"random-{seed}"
    if not folder.is_dir():
        torch.manual_seed(seed)
        model = Uni4EyeForPreTraining(model_config(recipe, contract(which)))
        model.save_pretrained(work / f".random-{seed}")
        contract(which).save_pretrained(work / f".random-{seed}")
        (work / f".random-{seed}").replace(folder)
    return folder


def unlabelled(work: Path) -> Path:
    """Return the manifest of the training volumes and of four slices of each, without questions.

    Args:
        work: Where the set's runs are kept.
    """
    path = work / "unlabelled" / "manifest.jsonl"
    if path.is_file():
        return path
    from PIL import Image

    training = Manifest.load(work / "questions" / "manifest.jsonl").split("train")
    prepare = contract(SETS[work.name]).prepare
    (work / "unlabelled").mkdir(parents=True, exist_ok=True)
    records = []
    for record in training.records:
        base = {"patient_id": record.patient_id, "split": "train"}
        (file,) = training.resolve(record)
        records.append(Record(id=record.id, kind="volume", paths=(os.path.relpath(file, work),), **base))
        planes = prepare(crossdim.readers.read(file)).tensor[0]
        for place in np.linspace(1, len(planes) - 2, 4).round().astype(int).tolist():
            name = f"unlabelled/{record.id}-{place}.png"
            Image.fromarray((planes[place] * 255).byte().numpy()).save(work / name)
            records.append(Record(id=f"{record.id}-{place}", kind="image", paths=(name,), **base))
    Manifest(Header(name="training volumes and slices", root=str(work)), tuple(records)).save(path)
    return path


def train(name: str, arm: str, seed: int, data: Path, work: Path) -> tuple[Path, InstructRecipe]:
    """Train one arm for one seed, or go on where a killed run stopped; returns the run and its recipe.

    Args:
        name: Of the set.
        arm: One of ``ARMS``.
        seed: Of the run.
        data: Folder of real data.
        work: Where the set's runs are kept.
    """
    questions(name, data, work)
    keys = [*INSTRUCT, *SETS[name].keys, *ARMS[arm], f"seed={seed}"]
    if name == "vqa_rad":
        contract(SETS[name]).save_pretrained(work)
        keys += [f"contract.file={work / 'contract.json'}", "model.vision2d.patch_size=16"]
    else:
        towers = encoder(name, work, seed, pretrained=arm.endswith("pretrained"))
        keys += [f"model.vision{axes}d.source={towers}" for axes in (2, 3)]
    recipe = load_recipe(None, InstructRecipe, keys)
    return instruct.run(work / "questions" / "manifest.jsonl", work / f"{arm}-{seed}", recipe, silent=True), recipe


def questions(name: str, data: Path, work: Path) -> Manifest:
    """Return a set's questions, made now or before.

    Args:
        name: Of the set.
        data: Folder of real data.
        work: Where the set's runs are kept.
    """
    folder = work / "questions"
    if not (folder / "manifest.jsonl").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        SETS[name].build(data, folder)
    return Manifest.load(folder / "manifest.jsonl")


def predictions(said: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what was said to each question, with the slice that scored highest.

    Args:
        said: By the evaluation.
    """
    kept = ("answer", "prediction", "blind", "shuffled", "type", "patient_id")
    return {
        each["id"]: {key: each[key] for key in kept if key in each}
        | {"best_slice": [max(of, key=lambda one: one["score"])["index"] for of in each["slices"] if of]}
        for each in said
    }


def run_one(name: str, arm: str, seed: int, given: argparse.Namespace, out: Path) -> None:
    """Do one run and write its JSON.

    Args:
        name: Of the set.
        arm: One of ``ARMS``.
        seed: Of the run.
        given: Where the data are, and what is evaluated on.
        out: The JSON to write.
    """
    started, work = time.monotonic(), (given.work / name).resolve()
    work.mkdir(parents=True, exist_ok=True)
    run, recipe = train(name, arm, seed, given.data, work)
    own = questions(name, given.data, work)
    target = own.split("test") if given.held_out is None else Manifest.load(given.held_out)
    if given.held_out is None:  # every run ends with its evaluation on the test part
        report = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
        said = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    else:
        found = evaluate_dialogues(load_answerer(run), target, own.split("train"), Evaluating(seed=seed, batch=64))
        report, said = found.to_dict(), list(found.predictions)
    for part in report.values():
        if isinstance(part, dict):
            part.pop("items", None)  # by id below
    document = {
        "benchmark": "med2e3",
        "set": name,
        "arm": arm,
        "seed": seed,
        "evaluated_on": target.header.name,
        "config": json.loads(recipe.model_dump_json().replace(str(work), "runs")),
        "pretraining": list(PRETRAIN) if arm.endswith("pretrained") else None,
        "training_records": len(own.split("train")),
        "test_records": len(target),
        "data_sha256": target.data_hash(),
        "crossdim": crossdim.__version__,
        "commit": git_commit(),
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started, 1),
        "report": report,
        "predictions": predictions(said),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
    temporary.replace(out)
    print(f"{name}/{out.name}: {document['seconds']} s", flush=True)


def main() -> None:
    """Do every run that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("CROSSDIM_DATA", "../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/med2e3"), help="where runs are kept")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--held-out", type=Path, help="a manifest with dialogues to evaluate on instead of the test part"
    )
    given = parser.parse_args()
    given.data = given.data.resolve()
    results = RESULTS if given.held_out is None else RESULTS / f"held-out-{given.held_out.stem}"
    for seed in given.seeds:
        for name in given.sets:
            for arm in SETS[name].arms:
                out = results / name / f"{arm}-{seed}.json"
                if arm in given.arms and not out.is_file():
                    run_one(name, arm, seed, given, out)


if __name__ == "__main__":
    main()
