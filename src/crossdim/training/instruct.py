"""Instruction training of Med-2E3: a model that answers questions about volumes and images.

Stage 1 trains the connectors on captions, stage 2 goes on from it with instructions (``med2e3-stage1`` and
``med2e3-stage2`` state the authors' schedule); with small parts, one stage from random weights is enough.

Differs from the authors' code: several questions about a volume share one forward of the towers; the map of the
question is saved and loaded with the rest (theirs forgets it); flips are left out where they would make an answer
false; validation chooses the checkpoint; their rotations by right angles are not there.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import TrainerCallback, set_seed

from crossdim.datasets.manifest import Manifest
from crossdim.errors import RecipeError
from crossdim.inference import Answerer
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.training.data import Collate
from crossdim.training.dialogue_conclusion import conclude_dialogues
from crossdim.training.dialogues import (
    CollateDialogues,
    DialogueDataset,
    DialoguePart,
    places_by_kind,
    refuse_falsifying,
)
from crossdim.training.frozen_features import frozen, use_features
from crossdim.training.health import FiniteLoss
from crossdim.training.instruct_model import Start, freeze, merged, rate_of, start_anew, start_from, with_updates
from crossdim.training.optimisation import scaled_learning_rate
from crossdim.training.progress import Announcer, ProgressBar, quiet_transformers
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe_instruct import InstructRecipe
from crossdim.training.schedule import Draw, Kind, SortedSchedule, Stream
from crossdim.training.selection import EarlyStopping, SelectingTrainer, Validation
from crossdim.training.session import announce, facts_of, open_data, open_run, processes, run_trainer, save_final
from crossdim.training.trainer import Plan, RunTrainer, trackers, training_arguments
from crossdim.transforms.augment import Augmentation


@dataclass(frozen=True)
class DialogueParts:
    """What of a manifest can be learned from, by split.

    Attributes:
        train: Training split.
        val: Validation split, may be empty.
        test: Test split, may be empty.
    """

    train: DialoguePart
    val: DialoguePart
    test: DialoguePart

    @property
    def together(self) -> Manifest:
        """The records of all splits."""
        parts = (self.train, self.val, self.test)
        return Manifest(self.train.manifest.header, tuple(record for part in parts for record in part.manifest.records))


def split(manifest: Manifest) -> DialogueParts:
    """Return the records with answered questions by split.

    Args:
        manifest: All records.

    Raises:
        RecipeError: No training record has an answered question.
    """
    parts = DialogueParts(*(DialoguePart.of(manifest.split(name)) for name in ("train", "val", "test")))
    if not len(parts.train.manifest):
        raise RecipeError(
            f"manifest '{manifest.header.name}'",
            "has no training record with an answered question",
            "Prepare it with dialogues, and with training, validation and test parts (crossdim prepare)",
        )
    return parts


@quiet_transformers()
def run(manifest: Path, out: Path, recipe: InstructRecipe, start: Path | None = None, *, silent: bool = False) -> Path:
    """Train a model to answer questions, or go on where the same command was stopped.

    The checkpoint with the smallest loss on the validation split is kept. The test split, if there is one, is evaluated
    once, at the end.

    Args:
        manifest: Records with dialogues and a training split.
        out: The run's folder.
        recipe: What to do.
        start: A model to go on from, such as the run of stage 1; None puts the recipe's parts together.
        silent: Print nothing.

    Returns:
        The run's folder, with the final model at its root.

    Raises:
        RecipeError: Data, parts and recipe do not fit together, or the folder holds another run.
        ContractError: The data do not fit the preprocessing, or a dialogue is too long.
        ReadError: Files cannot be used.
        TrainingError: The training diverged.
    """
    folder, announcer = open_run(out, recipe, silent)
    if folder.finished:
        return folder.path
    parts = split(Manifest.load(manifest))
    set_seed(recipe.seed)
    training = parts.train.manifest
    begin = start_anew(recipe, training) if start is None else start_from(start, recipe, training)
    facts = facts_of(parts.together, begin.processor.contract, folder, announcer, **begin.weights)
    folder.refuse_other_facts(facts)
    datasets = make_datasets(parts, begin, recipe, announcer)
    for dataset in (*datasets.values(), *_tested(parts, begin, recipe)):
        open_data(dataset.files, recipe.hardware.workers, folder, announcer)
    set_seed(recipe.seed)
    trainer = make_trainer(begin.build(), datasets, recipe, folder, announcer)
    announce(announcer, datasets["train"].manifest, trainer.plan.schedule, trainer)
    run_trainer(trainer, announcer)
    final = merged(trainer.network)
    if folder.writes:
        save_final(final, begin.processor, folder.path)
        splits = {name: getattr(parts, name).manifest for name in ("train", "val", "test")}
        answerer = Answerer(final.eval(), begin.processor, str(folder.path))
        conclude_dialogues(answerer, splits, recipe, folder, announcer)
        folder.close_session("finished", selected_on="val" if "val" in datasets else "last step")
    trainer.accelerator.wait_for_everyone()
    announcer.say(f"Finished: {folder.path}")
    return folder.path


def make_datasets(
    parts: DialogueParts, begin: Start, recipe: InstructRecipe, announcer: Announcer
) -> dict[str, DialogueDataset]:
    """Return the samples of training and, if there is one, validation split; only training samples are varied.

    Args:
        parts: The data.
        begin: The processor, and whether slices are asked for.
        recipe: Seed, augmentation, questions, memory.
        announcer: Says what is left out.

    Raises:
        RecipeError: A variation would make answers false.
        ContractError: A dialogue is too long.
    """
    if recipe.falsifying == "refuse":
        refuse_falsifying(recipe.augmentation, parts.train)
    find_slices = begin.config.slice_loss_weight > 0
    datasets = {}
    for name, part, share in (("train", parts.train, 0.7), ("val", parts.val, 0.3)):
        if recipe.learning.language_model == "frozen":
            part = part.without_texts()
        fitting = part.fitting(begin.processor, recipe.prompt.too_long)
        for reason, count in fitting.left_out.items():
            announcer.say(f"{name}: {count} {reason} left out")
        if not len(fitting.manifest) and name == "train":
            raise RecipeError("training split", "has no dialogue left to learn from", "Raise prompt.max_length")
        if not len(fitting.manifest):
            continue
        varied = name == "train" and recipe.augmentation != Augmentation()
        datasets[name] = DialogueDataset(
            fitting,
            begin.processor,
            recipe.seed,
            recipe.augmentation if varied else None,
            recipe.batch.questions_per_volume,
            find_slices,
            cache_bytes=int(share * recipe.hardware.cache_gib * 2**30),
        )
    return datasets


def _tested(parts: DialogueParts, begin: Start, recipe: InstructRecipe) -> list[DialogueDataset]:
    """Return the samples of the test split, to look for what cannot be evaluated before anything is trained."""
    fitting = parts.test.fitting(begin.processor, recipe.prompt.too_long)
    return [DialogueDataset(fitting, begin.processor, recipe.seed)] if len(fitting.manifest) else []


def _sizes(recipe: InstructRecipe) -> dict[Kind, int]:
    return {"image": recipe.batch.images, "volume": recipe.batch.volumes, "text": recipe.batch.texts}


def make_schedule(recipe: InstructRecipe, training: Manifest) -> SortedSchedule:
    """Return every batch of the run.

    Args:
        recipe: What to do.
        training: The training split.
    """
    streams = {kind: Stream(places, recipe.seed, kind) for kind, places in places_by_kind(training).items()}
    group = recipe.optimisation.accumulate * processes()[1]
    schedule = SortedSchedule(streams, _sizes(recipe), group, recipe.seed)
    schedule.set_length(recipe.optimisation.epochs, recipe.optimisation.steps)
    return schedule


def validation_batches(recipe: InstructRecipe, manifest: Manifest) -> list[list[Draw]]:
    """Return every record of a split once, in batches of one kind; the same dialogues are drawn every time.

    Args:
        recipe: Knows the batch sizes.
        manifest: The split.
    """
    sizes = _sizes(recipe)
    return [
        [Draw(0, place) for place in places[first : first + sizes[kind]]]
        for kind, places in places_by_kind(manifest).items()
        for first in range(0, len(places), sizes[kind])
    ]


def make_trainer(
    model: Med2E3ForConditionalGeneration,
    datasets: dict[str, DialogueDataset],
    recipe: InstructRecipe,
    folder: RunFolder,
    announcer: Announcer,
) -> RunTrainer:
    """Return the trainer: one that selects where there is a validation split, a plain one where there is none.

    Args:
        model: All of it; what does not learn is frozen here.
        datasets: By split.
        recipe: What to do.
        folder: The run's folder.
        announcer: Shows progress.
    """
    training = datasets["train"]
    schedule = make_schedule(recipe, training.manifest)
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
        # A batch holds one kind, so connectors of the others have no gradient in it.
        ddp_find_unused_parameters=True,
        eval_strategy="steps" if selecting else "no",
        eval_steps=every if selecting else None,
        load_best_model_at_end=selecting,
        metric_for_best_model="loss" if selecting else None,
        greater_is_better=False if selecting else None,
    )
    freeze(model, recipe.learning)
    if recipe.features.keep == "auto" and frozen(model) and training.augmentation is None:
        memory = int(recipe.hardware.cache_gib * 2**30)
        use_features(model, list(datasets.values()), recipe.features, arguments, memory, announcer)
    collate = Collate(CollateDialogues(training.processor))
    records = max(_sizes(recipe)[kind] for kind in schedule.streams) * schedule.group
    plan = Plan(
        folder=folder,
        schedule=schedule,
        dataset=training,
        collate=collate,
        contract=training.processor,
        learning_rate=scaled_learning_rate(recipe.optimisation.base_learning_rate, records),
        weight_decay=recipe.optimisation.weight_decay,
        factor_of=partial(rate_of, recipe.learning),
        measured=("loss/answer", "loss/slice"),
    )
    network = with_updates(model, recipe)
    callbacks: list[TrainerCallback] = [ProgressBar(announcer, "Training"), FiniteLoss(folder)]
    if not selecting:
        announcer.say("No validation split: the last step is kept, and nothing stops the run early")
        return RunTrainer(network, arguments, plan, callbacks)
    if recipe.selection.patience is not None:
        callbacks.append(EarlyStopping("loss", recipe.selection.patience))
    validation = Validation(
        dataset=datasets["val"],
        batches=validation_batches(recipe, datasets["val"].manifest),
        collate=collate,
        workers=recipe.hardware.workers,
    )
    return SelectingTrainer(network, arguments, plan, callbacks, validation)
