"""Masked pre-training of Uni4Eye on a folder or manifest of images and volumes (paper, sections 2.1 to 2.3)."""

from collections.abc import Callable
from pathlib import Path

from transformers import set_seed

from crossdim.datasets.folder import from_folder
from crossdim.datasets.manifest import Manifest
from crossdim.errors import ReadError, RecipeError
from crossdim.models.uni4eye import Uni4EyeForPreTraining
from crossdim.training.configs import model_config, patches_of
from crossdim.training.contracts import contract_for_run
from crossdim.training.data import Collate, RecordDataset, indices_by_kind
from crossdim.training.health import FiniteLoss, Health
from crossdim.training.optimisation import scaled_learning_rate
from crossdim.training.progress import Announcer, ProgressBar, quiet_transformers
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe import PretrainRecipe
from crossdim.training.reports import report_pretraining
from crossdim.training.schedule import AlternatingSchedule, Kind, MixedSchedule, Schedule, Stream
from crossdim.training.session import (
    announce,
    facts_of,
    finish_pretraining,
    open_data,
    open_run,
    processes,
    run_trainer,
)
from crossdim.training.trainer import Plan, RunTrainer, trackers, training_arguments
from crossdim.transforms.collate import collate_pretraining
from crossdim.transforms.contract import PreprocessingContract


@quiet_transformers()
def run(data: Path, out: Path, recipe: PretrainRecipe, *, silent: bool = False) -> Path:
    """Pre-train, or go on where the same command was stopped.

    Under ``torchrun`` every process calls this with the same arguments.

    Args:
        data: A folder of images and volumes, or a manifest, whose validation and test splits are not trained on.
        out: The run's folder.
        recipe: What to do.
        silent: Print nothing.

    Returns:
        The run's folder, with the final model at its root.

    Raises:
        ReadError: There is nothing to train on, or files cannot be used.
        RecipeError: The folder holds another run, or the recipe leaves out every kind of record there is.
        TrainingError: The training diverged or its features collapsed.
    """
    folder, announcer = open_run(out, recipe, silent)
    if folder.finished:
        return folder.path
    manifest = load_data(data, announcer)
    training = training_part(manifest)
    contract = contract_for_run(recipe.contract, training, recipe.model.patches)
    folder.refuse_other_facts(facts_of(manifest, contract, folder, announcer))
    config = model_config(recipe, contract)
    dataset = RecordDataset(
        training,
        contract,
        patches_of(config),
        recipe.seed,
        recipe.augmentation,
        cache_bytes=int(recipe.hardware.cache_gib * 2**30),
    )
    schedule = make_schedule(recipe, training, processes()[1])
    open_data(dataset, recipe.hardware.workers, folder, announcer)
    set_seed(recipe.seed)
    model = Uni4EyeForPreTraining(config)
    arguments = training_arguments(
        folder,
        recipe.optimisation,
        recipe.hardware,
        schedule,
        recipe.seed,
        logging_steps=recipe.logging.log_every,
        save_steps=recipe.logging.save_every,
        save_total_limit=recipe.logging.keep_checkpoints,
        report_to=trackers(recipe.logging.report_to),
        ddp_find_unused_parameters=not _both_in_every_batch(schedule),
    )
    trainer = RunTrainer(
        model,
        arguments,
        make_plan(recipe, folder, schedule, dataset, contract),
        [ProgressBar(announcer, "Pre-training"), FiniteLoss(folder)],
    )
    trainer.add_callback(Health(folder, recipe.health, dataset, probed_part(manifest), trainer.note))
    announce(announcer, training, schedule, trainer)
    run_trainer(trainer, announcer)
    finish_pretraining(trainer, model, announcer, report_pretraining)
    return folder.path


def load_data(data: Path, announcer: Announcer, scan: Callable[..., Manifest] = from_folder) -> Manifest:
    """Return the manifest in a file, or of everything readable in a folder.

    Args:
        data: A manifest or a folder.
        announcer: Says what was left out.
        scan: Makes the manifest of a folder.

    Raises:
        ReadError: It does not exist, or nothing in it can be read.
    """
    if not data.is_dir():
        return Manifest.load(data)
    with announcer.task("Looking through the folder") as advance:
        manifest = scan(data, progress=advance)
    for skipped in manifest.skipped[:10]:
        announcer.say(f"Left out {skipped.path}: {skipped.reason}")
    if len(manifest.skipped) > 10:
        announcer.say(f"... and {len(manifest.skipped) - 10} more files")
    return manifest


def training_part(manifest: Manifest) -> Manifest:
    """Return the records that may be trained on: the training split, and records that are in none.

    Args:
        manifest: All records.

    Raises:
        ReadError: There are none.
    """
    records = tuple(record for record in manifest.records if record.split in (None, "train"))
    if not records:
        raise ReadError(f"manifest '{manifest.header.name}'", "has no record to train on", "Give it a training split")
    return Manifest(manifest.header, records)


def probed_part(manifest: Manifest) -> Manifest:
    """Return the records that probes may look at: all but the test split.

    Args:
        manifest: All records.
    """
    return Manifest(manifest.header, tuple(record for record in manifest.records if record.split != "test"))


def make_schedule(recipe: PretrainRecipe, training: Manifest, processes: int) -> Schedule:
    """Return every batch of the run.

    Args:
        recipe: What to do.
        training: Records to train on.
        processes: Number of processes.

    Raises:
        RecipeError: The recipe leaves out every kind there is, or alternates between kinds of which one is missing.
    """
    mixing = recipe.mixing
    sizes: dict[Kind, int] = {"image": mixing.images, "volume": mixing.volumes}
    streams = {kind: Stream(places, recipe.seed, kind) for kind, places in indices_by_kind(training).items()}
    streams = {kind: stream for kind, stream in streams.items() if sizes[kind]}
    if not streams:
        kinds = " and ".join(f"{kind}s" for kind in indices_by_kind(training))
        raise RecipeError("'mixing'", f"takes no {kinds}, and there is nothing else", "Set their number above zero")
    group = recipe.optimisation.accumulate * processes
    if mixing.order == "mixed":
        schedule: Schedule = MixedSchedule(streams, sizes, group)
    elif len(streams) == 2:
        schedule = AlternatingSchedule(streams, sizes, group)
    else:
        raise RecipeError(
            "'mixing.order'", f"is alternate_epochs, and there are {next(iter(streams))}s only", "Set it to mixed"
        )
    schedule.set_length(recipe.optimisation.epochs, recipe.optimisation.steps)
    return schedule


def _both_in_every_batch(schedule: Schedule) -> bool:
    return isinstance(schedule, MixedSchedule) and len(schedule.streams) == 2


def make_plan(
    recipe: PretrainRecipe,
    folder: RunFolder,
    schedule: Schedule,
    dataset: RecordDataset,
    contract: PreprocessingContract,
) -> Plan:
    """Return what the trainer needs besides the model.

    Args:
        recipe: What to do.
        folder: The run's folder.
        schedule: Every batch.
        dataset: Training samples.
        contract: Saved with every checkpoint.
    """
    kinds = indices_by_kind(dataset.manifest)
    targets = ["intensity", "gradient"] if recipe.loss.gradient_weight > 0 else ["intensity"]
    parts = tuple(f"{kind}/{target}" for kind in kinds for target in targets)
    sizes = [
        size for kind, size in (("image", recipe.mixing.images), ("volume", recipe.mixing.volumes)) if kind in kinds
    ]
    # Where the kinds take turns the larger batch counts, as in the authors' run.
    samples = (max if recipe.mixing.order == "alternate_epochs" else sum)(sizes) * schedule.group
    return Plan(
        folder=folder,
        schedule=schedule,
        dataset=dataset,
        collate=Collate(collate_pretraining),
        contract=contract,
        learning_rate=scaled_learning_rate(recipe.optimisation.base_learning_rate, samples),
        weight_decay=recipe.optimisation.weight_decay,
        measured=(*(f"loss/{part}" for part in parts), *(f"hidden/{kind}" for kind in kinds), "padded_tokens"),
        in_every_forward=parts if _both_in_every_batch(schedule) else (),
    )
