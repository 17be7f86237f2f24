"""One session of a run: find where it stopped, go on, and leave the folder in order whatever happens."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from crossdim.datasets.manifest import Manifest
from crossdim.errors import CrossdimError
from crossdim.training.checkpoints import last_complete, remove_incomplete, step_of
from crossdim.training.data import KeptRecords, check_records
from crossdim.training.progress import Announcer, ProgressBar
from crossdim.training.provenance import AnyRecipe, RunFolder, stamp
from crossdim.training.schedule import Schedule
from crossdim.training.trainer import RunTrainer
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.text import Med2E3Processor


def processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes, as ``torchrun`` states them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def open_run(out: Path, recipe: AnyRecipe, silent: bool) -> tuple[RunFolder, Announcer]:
    """Return the folder of a run that may be started or continued, and what speaks for it.

    Args:
        out: The run's folder.
        recipe: What to do.
        silent: Print nothing. Of several processes only the first speaks and writes.

    Raises:
        RecipeError: The folder holds something else than a run of this recipe.
    """
    rank, _ = processes()
    announcer = Announcer(silent=silent or rank > 0)
    folder = RunFolder(out, recipe, writes=rank == 0)
    folder.refuse_other_recipe()
    if folder.finished:
        announcer.say(f"{folder.path} is finished: nothing to do")
    return folder, announcer


def finish_pretraining(
    trainer: RunTrainer, model: PreTrainedModel, announcer: Announcer, report: Callable[[RunFolder], None]
) -> None:
    """Write the final model and the page of a pre-training run, and say so.

    Args:
        trainer: After its last step.
        model: What learned.
        announcer: Speaks.
        report: Writes the page.
    """
    folder = trainer.plan.folder
    if folder.writes:
        save_final(model, trainer.plan.contract, folder.path)
        report(folder)
        folder.close_session("finished")
    trainer.accelerator.wait_for_everyone()
    announcer.say(f"Finished: {folder.path}")


def facts_of(
    manifest: Manifest, contract: PreprocessingContract, folder: RunFolder, announcer: Announcer, **more: Any
) -> dict[str, Any]:
    """Return what a run's numbers depend on besides its recipe.

    Args:
        manifest: The data. Files that look untouched since the last session are not read again.
        contract: How they are prepared.
        folder: Remembers what the files looked like.
        announcer: Shows how far the hashing is.
        **more: Further facts.
    """
    return {
        "data": _hash_data(manifest, folder, announcer),
        "contract": hashlib.sha256(contract.model_dump_json().encode()).hexdigest(),
        "processes": processes()[1],
        **more,
    }


def _hash_data(manifest: Manifest, folder: RunFolder, announcer: Announcer) -> str:
    known = folder.document.get("facts", {}).get("data")
    folder.notes["data_stamp"] = stamp(manifest)
    if known is not None and folder.document.get("data_stamp") == folder.notes["data_stamp"]:
        return known
    with announcer.task("Hashing the data") as advance:
        return manifest.data_hash(advance)


def open_data(dataset: KeptRecords[Any], workers: int, folder: RunFolder, announcer: Announcer) -> None:
    """Prepare every record once before the first session; later ones trust that nothing changed.

    With workers the memory is filled here, because they share what their parent has read.

    Args:
        dataset: Samples.
        workers: Processes that will prepare samples.
        folder: Knows whether there was a session.
        announcer: Shows how far it is.

    Raises:
        ReadError: Some records cannot be used.
    """
    first = not folder.document
    if first or workers:
        with announcer.task("Reading every file once") as advance:
            check_records(dataset, max(1, workers), until_full=not first, progress=advance)
    if workers:
        dataset.keep_no_more()


def announce(announcer: Announcer, training: Manifest, schedule: Schedule, trainer: RunTrainer) -> None:
    """Say in two lines what is about to happen.

    Args:
        announcer: Speaks.
        training: The records.
        schedule: The steps.
        trainer: The model and the device.
    """
    kinds = Counter(record.kind for record in training.records)
    counts = ", ".join(f"{count} {kind}s" for kind, count in sorted(kinds.items()))
    learning = sum(value.numel() for value in trainer.network.parameters() if value.requires_grad)
    precision = "bf16" if trainer.args.bf16 else "fp32"
    announcer.say(f"{counts}; {learning / 1e6:.1f} M parameters learn on {trainer.args.device.type} in {precision}")
    announcer.say(
        f"{schedule.steps} steps, {schedule.steps_per_epoch} a pass, learning rate {trainer.plan.learning_rate:.3g}"
    )


def run_trainer(trainer: RunTrainer, announcer: Announcer) -> None:
    """Train from the last complete checkpoint, or from the start, to the end of the schedule.

    Args:
        trainer: Ready to train.
        announcer: Says where it starts.

    Raises:
        CrossdimError: A file or the training itself went wrong; ``run.json`` says so too.
    """
    folder = trainer.plan.folder
    if folder.writes:
        remove_incomplete(folder.checkpoints)
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_complete(folder.checkpoints)
    step = step_of(checkpoint) if checkpoint else 0
    folder.open_session(step)
    if checkpoint:
        announcer.say(f"Going on from step {step} of {trainer.plan.schedule.steps} ({checkpoint})")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except CrossdimError as error:
        folder.close_session(f"stopped: {error}")
        raise
    except KeyboardInterrupt:
        folder.close_session("interrupted")
        raise
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressBar):
                callback.close()


def save_final(model: PreTrainedModel, contract: PreprocessingContract | Med2E3Processor, path: Path) -> None:
    """Write model and contract to the run's root; each file is there as a whole or not at all.

    Args:
        model: To be saved.
        contract: Saved beside it; a processor holds one.
        path: The run's folder.
    """
    temporary = path / ".final"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    contract.save_pretrained(temporary)
    for file in sorted(temporary.iterdir(), key=lambda file: file.name == "contract.json"):
        if file.is_dir():
            shutil.rmtree(path / file.name, ignore_errors=True)  # of a session that was killed right here
        else:
            shutil.copymode(temporary / "contract.json", file)  # safetensors are written for their owner only
        os.replace(file, path / file.name)
    temporary.rmdir()
