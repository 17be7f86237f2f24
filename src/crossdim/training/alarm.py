"""The error that stops a run which more training would not mend."""

from crossdim.errors import CrossdimError
from crossdim.training.checkpoints import last_complete
from crossdim.training.provenance import RunFolder


class TrainingError(CrossdimError):
    """Training that went wrong in a way that more training would not mend."""


def alarm(folder: RunFolder, step: int, reason: str, remedy: str) -> TrainingError:
    """Return an alarm that names the last good checkpoint.

    Args:
        folder: The run.
        step: Optimiser step at which it was noticed.
        reason: What is wrong.
        remedy: What to try.
    """
    checkpoint = last_complete(folder.checkpoints)
    good = f"The last good checkpoint is {checkpoint}" if checkpoint else "No checkpoint had been written"
    return TrainingError(f"step {step} of {folder.path}", f"{reason}. {good}", remedy)
