"""Masked pre-training of PiMAE on scenes: points, images, or both (Chen et al., CVPR 2023)."""

from pathlib import Path

from transformers import set_seed

from crossdim.datasets.folder import from_folder
from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scene_folder import from_scene_folder, holds_scenes
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.models.pimae_config import PimaeConfig
from crossdim.training.configs import pimae_config
from crossdim.training.contracts import scene_contract_for_run
from crossdim.training.data import Collate
from crossdim.training.health import FiniteLoss
from crossdim.training.health_scenes import SceneHealth
from crossdim.training.optimisation import scaled_learning_rate
from crossdim.training.pretrain import load_data, probed_part, training_part
from crossdim.training.progress import ProgressBar, quiet_transformers
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe_pimae import PimaeRecipe
from crossdim.training.reports import report_pretraining
from crossdim.training.scenes import SceneDataset, collate_samples, places_by_composition
from crossdim.training.schedule import Kind, SortedSchedule, Stream
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


@quiet_transformers()
def run(data: Path, out: Path, recipe: PimaeRecipe, *, silent: bool = False) -> Path:
    """Pre-train on scenes, or go on where the same command was stopped.

    Under ``torchrun`` every process calls this with the same arguments.

    Args:
        data: A manifest, whose validation and test splits are not trained on; or a scene folder, a folder of frames, a
            folder with any of them below it, or a folder of images.
        out: The run's folder.
        recipe: What to do.
        silent: Print nothing.

    Returns:
        The run's folder, with the final model at its root.

    Raises:
        ReadError: There is nothing to train on, or files cannot be used.
        ContractError: A scene does not fit the others or the model.
        RecipeError: The folder holds another run, or the recipe does not fit the data.
        TrainingError: The training diverged or its features collapsed.
    """
    folder, announcer = open_run(out, recipe, silent)
    if folder.finished:
        return folder.path
    folder_of_scenes = data.is_dir() and holds_scenes(data)
    manifest = load_data(data, announcer, from_scene_folder if folder_of_scenes else from_folder)
    training = training_part(manifest)
    contract = scene_contract_for_run(recipe.contract, training, pimae_config(recipe))
    folder.refuse_other_facts(facts_of(manifest, contract, folder, announcer))
    config = pimae_config(recipe, contract)
    memory = int(recipe.hardware.cache_gib * 2**30)
    dataset = SceneDataset(training, contract, config, recipe.seed, recipe.augmentation, cache_bytes=memory)
    schedule = make_schedule(recipe, training, processes()[1])
    open_data(dataset, recipe.hardware.workers, folder, announcer)
    set_seed(recipe.seed)
    model = PimaeForPreTraining(config)
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
        # A batch of images or of points alone leaves the other kind's parameters without gradients.
        ddp_find_unused_parameters=set(schedule.streams) != {"scene"},
    )
    trainer = RunTrainer(
        model,
        arguments,
        make_plan(recipe, folder, schedule, dataset, config),
        [ProgressBar(announcer, "Pre-training"), FiniteLoss(folder)],
    )
    trainer.add_callback(SceneHealth(folder, recipe.health, dataset, probed_part(manifest), trainer.note))
    announce(announcer, training, schedule, trainer)
    run_trainer(trainer, announcer)
    finish_pretraining(trainer, model, announcer, report_pretraining)
    return folder.path


def make_schedule(recipe: PimaeRecipe, training: Manifest, count: int) -> SortedSchedule:
    """Return every batch of the run, each of scenes with the same parts.

    Args:
        recipe: What to do.
        training: Records to train on.
        count: Number of processes.

    Raises:
        RecipeError: A record is neither a scene nor an image.
    """
    streams = {kind: Stream(places, recipe.seed, kind) for kind, places in places_by_composition(training).items()}
    schedule = SortedSchedule(streams, _sizes(recipe), recipe.optimisation.accumulate * count, recipe.seed)
    schedule.set_length(recipe.optimisation.epochs, recipe.optimisation.steps)
    return schedule


def _sizes(recipe: PimaeRecipe) -> dict[Kind, int]:
    return {"scene": recipe.batch.scenes, "image": recipe.batch.images, "points": recipe.batch.points}


def make_plan(
    recipe: PimaeRecipe, folder: RunFolder, schedule: SortedSchedule, dataset: SceneDataset, config: PimaeConfig
) -> Plan:
    """Return what the trainer needs besides the model.

    Args:
        recipe: What to do.
        folder: The run's folder.
        schedule: Every batch.
        dataset: Training samples.
        config: Of the model.
    """
    kinds = set(schedule.streams)
    parts = [name for name in ("points", "image") if kinds & {"scene", name}]
    crossed = ["cross_modal"] if "scene" in kinds and config.cross_modal_target != "none" else []
    samples = max(_sizes(recipe)[kind] for kind in kinds) * schedule.group
    return Plan(
        folder=folder,
        schedule=schedule,
        dataset=dataset,
        collate=Collate(collate_samples),
        contract=dataset.contract,
        learning_rate=scaled_learning_rate(recipe.optimisation.base_learning_rate, samples),
        weight_decay=recipe.optimisation.weight_decay,
        measured=(*(f"loss/{part}" for part in [*parts, *crossed]), *(f"hidden/{part}" for part in parts)),
        in_every_forward=(*parts, *crossed) if kinds == {"scene"} else (),
    )
