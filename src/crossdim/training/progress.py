"""What a person sees while a run goes on: a bar with the time left, and lines where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

Advance = Callable[[int, int], None]
"""Called with (done, all)."""


class Announcer:
    """Speaks to the person who started a run, on stderr; silent where nobody should be spoken to.

    Args:
        silent: Say nothing (other processes of a distributed run; library use).
    """

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent
        self.console = Console(stderr=True, quiet=silent, highlight=False)

    def say(self, text: str) -> None:
        """Print one line.

        Args:
            text: The line.
        """
        self.console.print(text, markup=False, soft_wrap=True)

    def bar(self) -> Progress:
        """Return a progress bar with elapsed and remaining time; it is drawn on terminals only."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=self.silent or not self.console.is_terminal,
            transient=True,
        )

    @contextmanager
    def task(self, description: str) -> Iterator[Advance]:
        """Show a bar while something with a known number of parts is done.

        Args:
            description: What is being done.
        """
        with self.bar() as bar:
            task = bar.add_task(description, total=None, note="")
            yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars and warnings off the terminal; a run has its own."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


class ProgressBar(TrainerCallback):
    """Shows steps, time left and loss; without a terminal prints a line at every log.

    Args:
        announcer: Where to show them.
        description: What is being done.
    """

    def __init__(self, announcer: Announcer, description: str) -> None:
        self._announcer, self._description = announcer, description
        self._bar = announcer.bar()
        self._task = self._bar.add_task(description, total=None, note="")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start at the step that a resumed run starts from."""
        self._bar.update(self._task, total=state.max_steps, completed=state.global_step)
        self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest numbers."""
        shown = {name: value for name, value in (logs or {}).items() if name == "loss" or name.startswith("eval_")}
        if not shown:
            return
        note = "  ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in shown.items())
        self._bar.update(self._task, note=note)
        if not self._announcer.console.is_terminal:
            self._announcer.say(f"{self._description}: step {state.global_step}/{state.max_steps}  {note}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Take the bar away; also after a failure."""
        self._bar.stop()
