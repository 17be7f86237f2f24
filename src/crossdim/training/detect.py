"""Training of a detector of boxes in scenes (3DETR), from random weights or from a pre-trained PiMAE.

The checkpoint that is best on the validation split is kept; the test split is evaluated once, at the end.
"""

from functools import partial
from pathlib import Path

from transformers import TrainerCallback, set_seed

from crossdim.datasets.manifest import Manifest
from crossdim.training.data import Collate
from crossdim.training.detection_conclusion import conclude_detection
from crossdim.training.detection_data import (
    DetectionDataset,
    DetectionParts,
    Labelling,
    collate_detection,
    split_scenes,
)
from crossdim.training.detection_evaluation import batches_of, protocol_of
from crossdim.training.detection_model import Beginning, begin, learning_factor
from crossdim.training.detection_trainer import AveragingTrainer, DetectionTrainer, DetectionValidation
from crossdim.training.health import FiniteLoss
from crossdim.training.optimisation import scaled_learning_rate
from crossdim.training.progress import Announcer, ProgressBar, quiet_transformers
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.scenes import places_by_composition
from crossdim.training.schedule import Kind, SortedSchedule, Stream
from crossdim.training.selection import EarlyStopping
from crossdim.training.session import announce, facts_of, open_data, open_run, processes, run_trainer, save_final
from crossdim.training.trainer import Plan, trackers, training_arguments

PARTS = ("classes", "angle_class", "angle_residual", "center", "size", "giou", "cardinality")
"""What the loss is made of, and what is measured beside it."""


@quiet_transformers()
def run(manifest: Path, out: Path, recipe: DetectRecipe, start: Path | None = None, *, silent: bool = False) -> Path:
    """Train a detector, or go on where the same command was stopped.

    Args:
        manifest: Scenes with boxes and a training split.
        out: The run's folder.
        recipe: What to do.
        start: A pre-training run on scenes or a detector's run, one of its checkpoints, or a converted PiMAE or 3DETR;
            None starts from random weights.
        silent: Print nothing.

    Returns:
        The run's folder, with the final detector at its root.

    Raises:
        RecipeError: Labels, splits or recipe do not fit together, or the folder holds another run.
        ContractError: The data do not fit the pre-trained model's preprocessing.
        ReadError: Files cannot be used.
        TrainingError: The training diverged.
    """
    folder, announcer = open_run(out, recipe, silent)
    if folder.finished:
        return folder.path
    parts = split_scenes(Manifest.load(manifest), recipe.labels, recipe.model.image, recipe.seed)
    for reason, count in parts.left_out.items():
        announcer.say(f"{count} {reason} left out")
    beginning = begin(recipe, parts, start)
    folder.refuse_other_facts(facts_of(parts.labelled, beginning.contract, folder, announcer, **beginning.facts))
    datasets = {name: make_dataset(part, beginning, recipe, name, parts) for name, part in parts}
    for dataset in datasets.values():
        open_data(dataset, recipe.hardware.workers, folder, announcer)
    set_seed(recipe.seed)
    trainer = make_trainer(beginning, datasets, recipe, folder, announcer)
    announce(announcer, parts.train, trainer.plan.schedule, trainer)
    run_trainer(trainer, announcer)
    trainer.settle()
    if folder.writes:
        save_final(trainer.network, beginning.contract, folder.path)
        conclude_detection(trainer.network.eval(), datasets, recipe, folder, announcer)
        folder.close_session("finished", selected_on="val" if "val" in datasets else "last step")
    trainer.accelerator.wait_for_everyone()
    announcer.say(f"Finished: {folder.path}")
    return folder.path


def make_dataset(
    part: Manifest, beginning: Beginning, recipe: DetectRecipe, name: str, parts: DetectionParts
) -> DetectionDataset:
    """Return a split's samples; only training samples are varied.

    Args:
        part: The scenes.
        beginning: Preprocessing and config.
        recipe: Seed, augmentation, memory.
        name: Of the split.
        parts: Knows the classes.
    """
    share = {"train": 0.7, "val": 0.3}.get(name, 0.0)
    outside = "keep" if recipe.labels.outside == "leave_out" and name != "train" else recipe.labels.outside
    return DetectionDataset(
        part,
        beginning.contract,
        Labelling(parts.classes, outside, recipe.labels.symmetry),
        recipe.seed,
        beginning.config.skip_points_near_origin,
        (recipe.crop, recipe.augmentation) if name == "train" else None,
        cache_bytes=int(share * recipe.hardware.cache_gib * 2**30),
    )


def make_schedule(recipe: DetectRecipe, dataset: DetectionDataset) -> SortedSchedule:
    """Return every batch of the run.

    Args:
        recipe: What to do.
        dataset: Training samples.
    """
    places = places_by_composition(dataset.manifest)
    streams = {kind: Stream(found, recipe.seed, kind) for kind, found in places.items()}
    sizes: dict[Kind, int] = dict.fromkeys(streams, recipe.batch.scenes)
    schedule = SortedSchedule(streams, sizes, recipe.optimisation.accumulate * processes()[1], recipe.seed)
    schedule.set_length(recipe.optimisation.epochs, recipe.optimisation.steps)
    return schedule


def make_trainer(
    beginning: Beginning,
    datasets: dict[str, DetectionDataset],
    recipe: DetectRecipe,
    folder: RunFolder,
    announcer: Announcer,
) -> AveragingTrainer:
    """Return the trainer: one that selects where there is a validation split, a plain one where there is none.

    Args:
        beginning: The detector.
        datasets: By split.
        recipe: What to do.
        folder: The run's folder.
        announcer: Shows progress.
    """
    schedule = make_schedule(recipe, datasets["train"])
    every = max(1, round(recipe.selection.evaluate_every_epochs * schedule.steps_per_epoch))
    selecting, metric = "val" in datasets, recipe.selection.metric
    arguments = training_arguments(
        folder,
        recipe.optimisation,
        recipe.hardware,
        schedule,
        recipe.seed,
        logging_steps=recipe.logging.log_every,
        save_steps=every,
        save_total_limit=2,
        report_to=trackers(recipe.logging.report_to),
        # A batch without images or without boxes leaves some parameters without gradients.
        ddp_find_unused_parameters=True,
        eval_strategy="steps" if selecting else "no",
        eval_steps=every if selecting else None,
        load_best_model_at_end=selecting,
        metric_for_best_model=metric if selecting else None,
        greater_is_better=metric != "loss" if selecting else None,
    )
    model, pretrained = beginning.build()
    plan = Plan(
        folder=folder,
        schedule=schedule,
        dataset=datasets["train"],
        collate=Collate(collate_detection),
        contract=beginning.contract,
        learning_rate=scaled_learning_rate(
            recipe.optimisation.base_learning_rate, recipe.batch.scenes * schedule.group
        ),
        weight_decay=recipe.optimisation.weight_decay,
        factor_of=partial(
            learning_factor,
            config=beginning.config,
            pretrained=pretrained,
            decay=recipe.optimisation.layer_decay,
        ),
        measured=tuple(f"loss/{name}" for name in PARTS),
    )
    callbacks: list[TrainerCallback] = [ProgressBar(announcer, "Training"), FiniteLoss(folder)]
    if selecting:
        if recipe.selection.patience is not None:
            callbacks.append(EarlyStopping(metric, recipe.selection.patience))
        validation = DetectionValidation(
            dataset=datasets["val"],
            batches=batches_of(datasets["val"], recipe.batch.scenes),
            collate=plan.collate,
            metric=metric,
            workers=recipe.hardware.workers,
            protocol=protocol_of(recipe.evaluation),
        )
        trainer: AveragingTrainer = DetectionTrainer(model, arguments, plan, callbacks, validation)
    else:
        announcer.say("No validation split: the last step is kept, and nothing stops the run early")
        trainer = AveragingTrainer(model, arguments, plan, callbacks)
    if recipe.optimisation.average:
        trainer.keep_average(recipe.optimisation.average)
    return trainer
