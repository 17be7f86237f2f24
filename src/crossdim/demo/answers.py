"""The demo's part about questions: a model that answers questions about volumes, and shows which slices mattered.

Bodies of ellipsoids with named organs are drawn as volumes of one kind of scan, each showing a part of a body;
questions with exact answers are made from them; a small Med-2E3 learns them, and is asked about a body that it has
never seen.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossdim.datasets.anatomy_questions import AnatomyOptions, build_anatomy_questions
from crossdim.datasets.anatomy_views import Views
from crossdim.datasets.dialogue import Turn
from crossdim.datasets.manifest import Manifest
from crossdim.datasets.phantom import make_phantoms
from crossdim.datasets.synthetic_contrast import ContrastOptions
from crossdim.outputs.blocks import Picture, Section
from crossdim.samples import Answer

Say = Callable[[str], None]

FOLDER = "answers"
"""Of the run, in the demo's folder; `crossdim ask` finds it there."""

BODIES, SEED, UNSEEN_SEED = 120, 4, 5

RECIPE = (
    "model.vision3d.num_hidden_layers=2",
    "model.vision3d.hidden_size=64",
    "model.vision2d.num_hidden_layers=3",
    "model.question.num_hidden_layers=1",
    "language.hidden_size=96",
    "language.num_hidden_layers=3",
    "language.intermediate_size=256",
    "scoring.temperature=1.0",
    "scoring.slice_loss_weight=0.5",
    "learning.vision3d=frozen",
    "prompt.style=chat",
    "batch.volumes=16",
    "batch.questions_per_volume=8",
    "optimisation.base_learning_rate=1.6e-2",
    "optimisation.warmup=0.05",
    "optimisation.epochs=null",
    "optimisation.steps=280",
    "selection.evaluate_every_epochs=5",
    "logging.log_every=20",
)


@dataclass(frozen=True)
class Checked:
    """A question about the unseen body, with what is true.

    Attributes:
        turn: As the label map answers it.
        answer: As the model does.
        found: Whether the slice with the highest score shows what was asked about; None where nothing is to be seen.
    """

    turn: Turn
    answer: Answer
    found: bool | None

    def line(self) -> str:
        """Return question, answer, truth and slices as a line of the story."""
        chance = self.answer.probabilities[self.answer.text]
        said = f"{self.turn.question} {self.answer.text} ({chance:.0%}; true: {self.turn.answer})"
        if self.found is None:
            return f"{said}; there is nothing to look at"
        best = max(self.answer.slices[0], key=lambda each: each.score)
        return f"{said}; looked at slice {best.index} most, which {'shows' if self.found else 'does not show'} it"


def questions(folder: Path, count: int, seed: int, fractions: tuple[float, float, float]) -> Manifest:
    """Draw bodies and ask about them; what is there already is taken as it is.

    Args:
        folder: Gets label maps, volumes and ``manifest.jsonl``.
        count: Number of bodies.
        seed: Of everything.
        fractions: Shares of train, val and test.
    """
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        cases, names = make_phantoms(folder / "maps", count, size=32, seed=seed, absent=0.0)
        options = AnatomyOptions(
            names=names,
            types=("presence", "side"),
            views=Views(count=4, coverage=(0.25, 0.6), lateral=0.5),
            synthetic=1,
            contrast=ContrastOptions(bias=0.1, gamma=0.1, thickness_mm=0.0, same_means=True),
            seed=seed,
            fractions=fractions,
            unnamed="ignore",
            name="bodies of ellipsoids",
        )
        build_anatomy_questions(cases, folder, options)
    return Manifest.load(manifest)


def learn(folder: Path, *, silent: bool) -> Path:
    """Train the model that answers, or take the one that is there; returns its run.

    Args:
        folder: The demo's folder.
        silent: Show no progress bars.
    """
    from crossdim.training import instruct
    from crossdim.training.recipe_files import load_recipe
    from crossdim.training.recipe_instruct import InstructRecipe
    from crossdim.transforms.contract import PreprocessingContract, VolumeContract

    volume = VolumeContract(size=(24, 32, 32))  # all of a body, whatever its size
    file = PreprocessingContract(volume=volume, source="crossdim demo").save_pretrained(folder / "bodies")
    recipe = load_recipe(None, InstructRecipe, (*RECIPE, f"contract.file={file}"))
    return instruct.run(folder / "bodies" / "manifest.jsonl", folder / FOLDER, recipe, silent=silent)


def measured(run: Path) -> str:
    """Return in one line how well further bodies were answered about, beside the baselines.

    Args:
        run: The model, whose training ended with its evaluation.
    """
    from crossdim.metrics.dialogue_report import DialogueReport
    from crossdim.metrics.slices import SliceReport
    from crossdim.outputs.dialogues import dialogue_headline

    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    slices = None if found["slices"] is None else SliceReport.from_dict(found["slices"])
    return dialogue_headline(DialogueReport.from_dict(found["answers"]), slices)


def ask_unseen(folder: Path, run: Path) -> tuple[Path, list[Checked]]:
    """Ask three questions about a body that is in no set; returns its volume, and question by question what came out.

    Args:
        folder: The demo's folder.
        run: The model.
    """
    from crossdim.inference import load_answerer
    from crossdim.transforms.text import slice_targets

    unseen = questions(folder / "unseen-body", 8, UNSEEN_SEED, (1.0, 0.0, 0.0))
    record = max(unseen.records, key=lambda each: len({turn_kind(d.turns[0]) for d in each.dialogues}))
    (source,) = unseen.resolve(record)
    model = load_answerer(run)
    checked = []
    for turn in three_of([dialogue.turns[0] for dialogue in record.dialogues]):
        answer = model.ask(source, turn.question, turn.choices)
        found = None
        if turn.extent_mm is not None and answer.slices:
            targets = slice_targets(model.look(source).prepared, turn.extent_mm).tolist()
            best = max(range(len(targets)), key=lambda place: answer.slices[0][place].score)
            found = bool(targets[best])
        checked.append(Checked(turn, answer, found))
    return Path(source), checked


def turn_kind(turn: Turn) -> tuple[str, str]:
    """Return what kind of question a turn is: its type, and whether the answer to a yes-no question is yes.

    Args:
        turn: Of a body.
    """
    return turn.type, turn.answer if turn.type == "presence" else ""


def three_of(turns: Sequence[Turn]) -> list[Turn]:
    """Return three questions, of different kinds as far as there are some.

    Args:
        turns: About one body.
    """
    first_of = {turn_kind(turn): turn for turn in reversed(turns)}
    chosen = list(first_of.values())[:3]
    return chosen + [turn for turn in turns if turn not in chosen][: 3 - len(chosen)]


def section(run: Path, source: Path, checked: Sequence[Checked]) -> Section:
    """Return the part of the report about the unseen body.

    Args:
        run: The model.
        source: The body's volume.
        checked: Question by question what came out.
    """
    from crossdim.inference import load_answerer
    from crossdim.inference.pages import slice_figures
    from crossdim.outputs.blocks import Paragraph, Table

    seen = [load_answerer(run).look(str(source))]
    pictures = []
    for each in checked:
        for figure in slice_figures(each.answer, seen):
            pictures.append(Picture.from_figure(figure, each.line(), f"Slice scores: {each.turn.question}"))
    rows = tuple(
        (
            each.turn.question,
            each.answer.text,
            f"{each.answer.probabilities[each.answer.text]:.0%}",
            each.turn.answer,
            {True: "yes", False: "no", None: "nothing to see"}[each.found],
        )
        for each in checked
    )
    columns = ("question", "answer", "probability", "truth", "best slice shows it")
    return Section(
        "Questions about a body that no run has seen",
        (Paragraph(__doc__ or ""), Table("Asked and answered", columns, rows), *pictures),
    )


def tell(folder: Path, say: Say, *, silent: bool = False) -> Section:
    """Tell this part of the story; returns its part of the report.

    Args:
        folder: The demo's folder.
        say: Tells the story, a line at a time.
        silent: Show no progress bars.
    """
    manifest = questions(folder / "bodies", BODIES, SEED, (0.85, 0.05, 0.1))
    asked = sum(len(record.dialogues) for record in manifest.split("train").records)
    say(f"6. {asked} questions with exact answers about scans of {BODIES} labelled bodies. A model learns them.")
    run = learn(folder, silent=silent)
    say(f"   {measured(run)}")
    source, checked = ask_unseen(folder, run)
    say(f"7. A body that no run has seen ({source}):")
    for each in checked:
        say(f"   {each.line()}")
    return section(run, source, checked)
