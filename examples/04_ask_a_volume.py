"""Make questions from label maps, train a small model on them, ask it about a volume, and see which slices mattered.

It learns for some steps only, so the answers are guesses. Run: python examples/04_ask_a_volume.py
"""

import tempfile
from pathlib import Path

import crossdim
from crossdim.datasets.anatomy_questions import AnatomyOptions, build_anatomy_questions
from crossdim.datasets.anatomy_views import Views
from crossdim.datasets.phantom import make_phantoms
from crossdim.training import instruct
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_instruct import InstructRecipe

SMALL = (
    "model.vision3d.num_hidden_layers=1",
    "model.vision2d.num_hidden_layers=1",
    "model.question.num_hidden_layers=1",
    "language.num_hidden_layers=2",
    "language.hidden_size=64",
    "scoring.slice_loss_weight=1",  # the label maps say in which slices an answer is to be seen
    "contract.volume_size=[16, 32, 32]",
    "optimisation.epochs=null",
    "optimisation.steps=40",
    "optimisation.base_learning_rate=0.06",
    "selection.evaluate_every_epochs=8",
    "bootstrap=100",
)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    cases, names = make_phantoms(folder / "bodies", count=24, size=24)
    options = AnatomyOptions(names, types=("presence",), unnamed="ignore", synthetic=1, views=Views(count=0))
    manifest = build_anatomy_questions(cases, folder / "questions", options)

    recipe = load_recipe("instruct-tiny", InstructRecipe, SMALL)
    run = instruct.run(folder / "questions" / "manifest.jsonl", folder / "run", recipe)

    model = crossdim.load(run)
    record = manifest.split("test").records[0]
    (volume,) = manifest.resolve(record)
    for dialogue in record.dialogues[:3]:
        (turn,) = dialogue.turns
        answer = model.ask(volume, turn.question, turn.choices)  # the volume is looked at once
        print(f"{turn.question} {answer.text} ({answer.probabilities[answer.text]:.0%}; true: {turn.answer})")
        best = sorted(answer.slices[0], key=lambda each: -each.score)[:3]
        print("   slices that mattered most:", ", ".join(f"{each.index} ({each.score:.3f})" for each in best))
