"""Fine-tuning: linear probe, full with layer decay, partly frozen, or LoRA; on images, volumes, or both."""

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, set_seed

from crossdim.datasets.manifest import Manifest
from crossdim.inference import Predictor
from crossdim.training.adaptation import (
    Classifier,
    LinearProbe,
    adapt,
    build_classifier,
    encode_records,
    encoder_folder,
    layer_decay_of,
    merged,
    stack_features,
)
from crossdim.training.conclusion import conclude
from crossdim.training.data import Collate, RecordDataset, indices_by_kind
from crossdim.training.evaluation import scores_for
from crossdim.training.health import FiniteLoss
from crossdim.training.labelled import as_images, looks_at_scenes, make_dataset, split, starting_point
from crossdim.training.optimisation import scaled_learning_rate
from crossdim.training.progress import Announcer, ProgressBar, quiet_transformers
from crossdim.training.provenance import RunFolder, weights_hash
from crossdim.training.recipe import FinetuneRecipe, LinearAdaptation
from crossdim.training.schedule import Draw, Kind, SortedSchedule, Stream
from crossdim.training.selection import ClassifierTrainer, ClassifierValidation, EarlyStopping
from crossdim.training.session import announce, facts_of, open_data, open_run, processes, run_trainer, save_final
from crossdim.training.trainer import Plan, RunTrainer, trackers, training_arguments
from crossdim.transforms.collate import collate_classification


@quiet_transformers()
def run(
    manifest: Path, out: Path, recipe: FinetuneRecipe, encoder: Path | None = None, *, silent: bool = False
) -> Path:
    """Fine-tune a classifier, or go on where the same command was stopped.

    The best checkpoint on the validation split is kept. The test split, if there is one, is evaluated once, at the end.

    Args:
        manifest: Labelled records with a training split.
        out: The run's folder.
        recipe: What to do.
        encoder: A pre-training run, one of its checkpoints or a converted model; None starts from random weights.
        silent: Print nothing.

    Returns:
        The run's folder, with the final model at its root.

    Raises:
        RecipeError: Task, splits or recipe do not fit together, or the folder holds another run.
        ContractError: The data do not fit the encoder's preprocessing.
        ReadError: Files cannot be used.
        TrainingError: The training diverged.
    """
    folder, announcer = open_run(out, recipe, silent)
    if folder.finished:
        return folder.path
    encoder = None if encoder is None else encoder_folder(encoder)
    records = Manifest.load(manifest)
    parts = split(as_images(records) if looks_at_scenes(encoder) else records, recipe.task, recipe.shots, recipe.seed)
    contract, config = starting_point(recipe, parts, encoder)
    weights = {} if encoder is None else {"encoder": weights_hash(encoder)}
    folder.refuse_other_facts(facts_of(parts.labelled, contract, folder, announcer, **weights))
    datasets = {name: make_dataset(part, contract, config, recipe, name, parts.task) for name, part in parts}
    for dataset in datasets.values():
        open_data(dataset, recipe.hardware.workers, folder, announcer)
    set_seed(recipe.seed)
    classifier = build_classifier(config, encoder)
    trainer = make_trainer(classifier, datasets, recipe, folder, announcer)
    announce(announcer, parts.train, trainer.plan.schedule, trainer)
    run_trainer(trainer, announcer)
    final = classifier if isinstance(trainer.network, LinearProbe) else merged(trainer.network)
    if folder.writes:
        save_final(final, contract, folder.path)
        conclude(Predictor(final.eval(), contract, str(folder.path)), parts, recipe, folder, announcer)
        folder.close_session("finished", selected_on="val" if len(parts.val) else "last step")
    trainer.accelerator.wait_for_everyone()
    announcer.say(f"Finished: {folder.path}")
    return folder.path


def make_schedule(recipe: FinetuneRecipe, training: Manifest) -> SortedSchedule:
    """Return every batch of the run.

    Args:
        recipe: What to do.
        training: The training split.
    """
    streams = {kind: Stream(places, recipe.seed, kind) for kind, places in indices_by_kind(training).items()}
    group = recipe.optimisation.accumulate * processes()[1]
    schedule = SortedSchedule(streams, _sizes(recipe), group, recipe.seed)
    schedule.set_length(recipe.optimisation.epochs, recipe.optimisation.steps)
    return schedule


def _sizes(recipe: FinetuneRecipe) -> dict[Kind, int]:
    return {"image": recipe.batch.images, "volume": recipe.batch.volumes}


def validation_batches(recipe: FinetuneRecipe, manifest: Manifest) -> list[list[Draw]]:
    """Return every record of a split once, in batches of one kind.

    Args:
        recipe: Knows the batch sizes.
        manifest: The split.
    """
    sizes = _sizes(recipe)
    return [
        [Draw(0, place) for place in places[start : start + sizes[kind]]]
        for kind, places in indices_by_kind(manifest).items()
        for start in range(0, len(places), sizes[kind])
    ]


def make_trainer(
    classifier: Classifier,
    datasets: dict[str, RecordDataset],
    recipe: FinetuneRecipe,
    folder: RunFolder,
    announcer: Announcer,
) -> RunTrainer:
    """Return the trainer: one that selects where there is a validation split, a plain one where there is none.

    Args:
        classifier: From :func:`build_classifier`.
        datasets: By split.
        recipe: What to do.
        folder: The run's folder.
        announcer: Shows progress.
    """
    schedule = make_schedule(recipe, datasets["train"].manifest)
    every = max(1, round(recipe.selection.evaluate_every_epochs * schedule.steps_per_epoch))
    selecting = "val" in datasets
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
        # A batch holds one kind, so the other kind's stem has no gradient in it.
        ddp_find_unused_parameters=True,
        eval_strategy="steps" if selecting else "no",
        eval_steps=every if selecting else None,
        load_best_model_at_end=selecting,
        metric_for_best_model=recipe.selection.metric if selecting else None,
        greater_is_better=recipe.selection.metric != "loss" if selecting else None,
    )
    model: nn.Module = adapt(classifier, recipe.adaptation)
    samples: dict[str, Dataset[Any]] = dict(datasets)
    collate: Any = Collate(collate_classification)
    if isinstance(recipe.adaptation, LinearAdaptation) and datasets["train"].augmentation is None:
        with announcer.task("Encoding every file once") as advance:
            samples = {
                name: encode_records(classifier, dataset, arguments.device, advance)
                for name, dataset in datasets.items()
                if name != "test"
            }
        model, collate = LinearProbe(classifier), stack_features
    plan = Plan(
        folder=folder,
        schedule=schedule,
        dataset=samples["train"],
        collate=collate,
        contract=datasets["train"].contract,
        learning_rate=scaled_learning_rate(
            recipe.optimisation.base_learning_rate,
            max(_sizes(recipe)[kind] for kind in schedule.streams) * schedule.group,
        ),
        weight_decay=recipe.optimisation.weight_decay,
        layer_decay=layer_decay_of(recipe.adaptation),
    )
    callbacks: list[TrainerCallback] = [ProgressBar(announcer, "Fine-tuning"), FiniteLoss(folder)]
    if not selecting:
        announcer.say("No validation split: the last step is kept, and nothing stops the run early")
        return RunTrainer(model, arguments, plan, callbacks)
    if recipe.selection.patience is not None:
        callbacks.append(EarlyStopping(recipe.selection.metric, recipe.selection.patience))
    validation = ClassifierValidation(
        dataset=samples["val"],
        batches=validation_batches(recipe, datasets["val"].manifest),
        collate=collate,
        problem=classifier.config.problem,
        scores=scores_for(datasets["val"].manifest.task(datasets["val"].task_name or "")),
        metric=recipe.selection.metric,
        workers=recipe.hardware.workers if samples["val"] is datasets["val"] else 0,
    )
    return ClassifierTrainer(model, arguments, plan, callbacks, validation)
