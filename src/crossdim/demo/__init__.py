"""The whole story on data that come with the installation: pre-train, fine-tune, measure, predict, ask, find in rooms.

Real pictures and volumes are those that scikit-image and nilearn ship; all others are drawn by crossdim.datasets
(synthetic, phantom and rooms). Everything is computed here and now, in minutes on two cores; the same command goes on
where a stopped one was.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.synthetic import IMAGE_CLASSES, IMAGE_TASK, fundus, make_images, make_volumes
from crossdim.errors import ReadError
from crossdim.samples import Prediction

if TYPE_CHECKING:
    from crossdim.metrics.classification import ClassificationReport
    from crossdim.metrics.resampling import Estimate
    from crossdim.outputs.blocks import Section

Say = Callable[[str], None]

UNLABELLED_SEED, LABELLED_SEED, UNSEEN_SEED = 1, 2, 3

MODEL = (
    "model.preset=tiny",
    "model.num_hidden_layers=4",
    "model.patch_size=[8, 8]",
    "model.volume_patch_size=[4, 8, 8]",
    "contract.image_size=[64, 64]",
)
PRETRAIN = (
    *MODEL,
    "contract.volume_size=[24, 48, 48]",
    "mixing.images=32",
    "mixing.volumes=4",
    "loss.normalise_patches=true",
    "optimisation.epochs=null",
    "optimisation.steps=240",
    "optimisation.base_learning_rate=4e-3",
    "logging.log_every=20",
    "logging.save_every=120",
    "health.picture_every=120",
    "health.probe_every=120",
)
FINETUNE = (
    "adaptation.mode=full",
    "adaptation.layer_decay=1.0",
    "head.pooling=mean",
    "batch.images=16",
    "optimisation.base_learning_rate=8e-3",
    "optimisation.epochs=25",
    "selection.evaluate_every_epochs=5",
    "selection.patience=null",
)
ARMS: Mapping[str, tuple[str, ...]] = {"pretrained": FINETUNE, "scratch": (*FINETUNE, *MODEL)}
"""Both arms learn alike; only where they start differs."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind.

    Attributes:
        folder: Everything it wrote.
        report: One page with reconstructions, curves and numbers.
        encoder: The pre-training run.
        classifier: The fine-tuned run.
        answerer: The run that answers questions.
        spaces: The pre-training run on rooms.
        detector: The run that finds boxes in rooms.
        prediction: For the picture that no run has seen.
        seconds: How long it took.
    """

    folder: Path
    report: Path
    encoder: Path
    classifier: Path
    answerer: Path
    spaces: Path
    detector: Path
    prediction: Prediction
    seconds: float


def real_files() -> dict[str, Path]:
    """Return the real pictures and volumes inside installed packages: name → file.

    Raises:
        ReadError: A package of the ``demo`` extra is missing.
    """
    files: dict[str, Path] = {}
    for package, inside, names in (
        ("skimage", "data", ("retina.jpg", "microaneurysms.png")),
        (
            "nilearn",
            "datasets/data",
            (
                "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
                "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
                "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
            ),
        ),
    ):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ReadError(
                f"package '{package}'", "is not installed", "Install the demo's data: pip install 'crossdim[demo]'"
            )
        files |= {name: Path(spec.origin).parent / inside / name for name in names}
    return {name: path for name, path in files.items() if path.is_file()}


def gather(folder: Path, say: Say) -> tuple[Path, Path]:
    """Write the folder of unlabelled files and the labelled set; returns the folder and the manifest.

    Args:
        folder: The demo's folder.
        say: Tells the story.
    """
    unlabelled, labelled = folder / "unlabelled", folder / "labelled"
    if not (labelled / "manifest.jsonl").is_file():
        shutil.rmtree(unlabelled, ignore_errors=True)
        (unlabelled / "real").mkdir(parents=True)
        for name, path in real_files().items():
            shutil.copyfile(path, unlabelled / "real" / name)
        make_images(unlabelled / "photographs", 320, seed=UNLABELLED_SEED)
        make_volumes(unlabelled / "scans", 40, seed=UNLABELLED_SEED)
        # A folder of unlabelled files knows no splits; the labelled set is other patients altogether.
        for part in ("photographs", "scans"):
            (unlabelled / part / "manifest.jsonl").unlink()
        make_images(labelled, 300, seed=LABELLED_SEED, fractions=(0.3, 0.2, 0.5))
    real = ", ".join(sorted(path.name for path in (unlabelled / "real").iterdir()))
    say(f"1. A folder as you might have it: 320 photographs, 40 scans, and real files ({real}). No labels.")
    return unlabelled, labelled / "manifest.jsonl"


def draw_unseen(path: Path) -> str:
    """Draw one photograph of a patient who is in no set; returns what it shows.

    Args:
        path: The PNG to write.
    """
    from PIL import Image

    label = 2
    person, picture = np.random.default_rng([UNSEEN_SEED, 0]), np.random.default_rng([UNSEEN_SEED, 1])
    Image.fromarray(fundus(person, picture, label=label, size=64, difficulty=0.3, right=True)).save(path)
    return IMAGE_CLASSES[label]


def compare(
    runs: Mapping[str, Path], manifest: Path, say: Say
) -> tuple[dict[str, "ClassificationReport"], dict[str, "Estimate"]]:
    """Measure both classifiers and chance on the test split; returns a report of each, and pre-trained minus scratch.

    Args:
        runs: Fine-tuned run of each arm.
        manifest: The labelled set.
        say: Tells the numbers.
    """
    from crossdim.inference import load_predictor
    from crossdim.metrics.classification import chance_baseline, evaluate_classification, paired_bootstrap
    from crossdim.outputs.report import interval_text
    from crossdim.training.evaluation import labels_of

    everything = Manifest.load(manifest)
    test, task = everything.split("test"), everything.task(IMAGE_TASK)
    truth, patients = labels_of(test, IMAGE_TASK), [record.patient_id for record in test.records]
    sources = [test.resolve(record) for record in test.records]
    found = {arm: load_predictor(path).probabilities(sources) for arm, path in runs.items()}
    reports = {
        arm: evaluate_classification(chances, truth, patients, task.kind, task.classes)
        for arm, chances in found.items()
    }
    train = labels_of(everything.split("train"), IMAGE_TASK)
    reports["chance"] = chance_baseline(train, truth, patients, task.kind, task.classes)
    say(f"4. On {len(test)} photographs of {len(set(patients))} further patients (95 % intervals by patient):")
    for arm, report in reports.items():
        auc, accuracy = (interval_text(report.metrics[name]) for name in ("auc", "accuracy"))
        say(f"   {arm:<11} AUC {auc}   accuracy {accuracy}")
    gain = paired_bootstrap(found["pretrained"], found["scratch"], truth, patients, task.kind)
    change = gain["auc"]
    verdict = "more than noise" if change.low > 0 or change.high < 0 else "within noise"
    say(f"   pre-training changes the AUC by {interval_text(change)}: {verdict}")
    return reports, gain


def write_report(
    folder: Path,
    encoder: Path,
    reports: Mapping[str, "ClassificationReport"],
    gain: Mapping[str, "Estimate"],
    prediction: Prediction,
    more: "Sequence[Section]",
) -> Path:
    """Write the page that shows everything; returns it.

    Args:
        folder: The demo's folder.
        encoder: The pre-training run.
        reports: Of each arm and of chance.
        gain: Pre-trained minus scratch.
        prediction: For the unseen picture.
        more: Further parts, about questions, rooms and boxes.
    """
    from crossdim.outputs.blocks import Document, Paragraph, Picture, Section
    from crossdim.outputs.document import save_document
    from crossdim.outputs.pictures import preview
    from crossdim.outputs.report import evaluation_sections, headline, pretraining_sections
    from crossdim.readers import read_channels

    drawn = {kind: sorted((encoder / "pictures").glob(f"{kind}s-*.png"))[-1] for kind in ("image", "volume")}
    reconstructions = [
        Picture.from_file(path, f"Hidden parts of {kind}s, filled in by the model.", f"Reconstructed {kind}s")
        for kind, path in drawn.items()
    ]
    log = [json.loads(line) for line in (encoder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    chances = ", ".join(f"{name} {chance:.0%}" for name, chance in prediction.probabilities.items())
    unseen_image = preview(read_channels([prediction.path]))
    unseen = Picture.from_figure(unseen_image, f"Predicted: {chances}.", "The unseen picture")
    others = {arm: report for arm, report in reports.items() if arm != "pretrained"}
    page = Document(
        "crossdim demo",
        f"Pre-trained on images and volumes, then fine-tuned: {headline(reports['pretrained'])}",
        (
            Section("What this is", (Paragraph(__doc__ or ""),)),
            *pretraining_sections(log, reconstructions),
            *evaluation_sections(reports["pretrained"], others, {"scratch": gain}),
            Section("A picture that no run has seen", (unseen,)),
            *more,
        ),
        {arm: report.to_dict() for arm, report in reports.items()},
    )
    save_document(page, folder / "report.html")
    return folder / "report.html"


def run(folder: Path, say: Say = print, *, silent: bool = False) -> DemoResult:
    """Tell the whole story.

    Args:
        folder: Where everything is written; the same folder goes on where a stopped demo was.
        say: Tells the story, a line at a time.
        silent: Show no progress bars.

    Raises:
        ReadError: A package of the ``demo`` extra is missing.
    """
    from crossdim.demo import answers, boxes, scenes
    from crossdim.inference import load_predictor
    from crossdim.training import finetune, pretrain
    from crossdim.training.recipe import FinetuneRecipe, PretrainRecipe
    from crossdim.training.recipe_files import load_recipe

    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    unlabelled, manifest = gather(folder, say)
    say("2. One encoder learns from images and volumes together, by filling in what is hidden from it.")
    encoder = pretrain.run(unlabelled, folder / "encoder", load_recipe(None, PretrainRecipe, PRETRAIN), silent=silent)
    count = len(Manifest.load(manifest).split("train"))
    say(f"3. A few labels: {count} graded photographs of other patients. Fine-tuning, and the same from scratch.")
    runs = {
        arm: finetune.run(
            manifest,
            folder / arm,
            load_recipe(None, FinetuneRecipe, keys),
            encoder if arm == "pretrained" else None,
            silent=silent,
        )
        for arm, keys in ARMS.items()
    }
    reports, gain = compare(runs, manifest, say)
    unseen = folder / "unseen.png"
    truth = draw_unseen(unseen)
    prediction = load_predictor(runs["pretrained"]).predict(unseen)
    chance = prediction.probabilities[str(prediction.label)]
    say(f"5. A picture that no run has seen ({unseen}): {prediction.label} ({chance:.0%}); it was drawn as {truth}.")
    more = [part.tell(folder, say, silent=silent) for part in (answers, scenes, boxes)]
    report = write_report(folder, encoder, reports, gain, prediction, more)
    seconds = time.monotonic() - started
    say(f"Done in {seconds:.0f} s. Pictures, curves and numbers: {report}")
    say("Your own files: crossdim pretrain FOLDER --out RUN; crossdim ask VOLUME 'question'")
    say(f"Boxes in a room, as files to open: {boxes.command(folder)}")
    answerer, spaces, detector = (folder / part.FOLDER for part in (answers, scenes, boxes))
    return DemoResult(folder, report, encoder, runs["pretrained"], answerer, spaces, detector, prediction, seconds)
