"""A toy data set with questions, and a model small enough for a second of training."""

from pathlib import Path

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.manifest import Manifest, Record
from crossdim.datasets.synthetic import make_images, make_volumes
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_instruct import InstructRecipe
from tests.training.conftest import merge

SMALL = (
    "hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=32",
)  # fmt: skip
PARTS = (
    *(f"model.{part}.{size}" for part in ("vision3d", "vision2d", "question") for size in SMALL),
    *(f"language.{size}" for size in SMALL),
    "language.vocab_size=320", "contract.volume_size=[8, 16, 16]",
)  # fmt: skip
SHORT = (
    "prompt.style=chat", "batch.volumes=4", "optimisation.base_learning_rate=0.1",
    "logging.log_every=2", "logging.report_to=none", "bootstrap=100", "hardware.device=cpu",
)  # fmt: skip
FROZEN = ("learning.vision3d=frozen", "learning.vision2d=frozen", "learning.question_encoder=frozen")


def instruct_recipe(*overrides: str, anew: bool = True) -> InstructRecipe:
    length = () if any("optimisation.steps" in override for override in overrides) else ("optimisation.epochs=2",)
    return load_recipe(None, InstructRecipe, (*(PARTS if anew else ()), *SHORT, *length, *overrides))


def dialogues_about(kind: str) -> tuple[Dialogue, ...]:
    box = (-200.0, 200.0, -200.0, 200.0, -5.0, 15.0)
    present = Turn(
        question="Is there a nodule?", answer="no" if kind == "none" else "yes", choices=("yes", "no"), form="closed",
        type="presence", extent_mm=None if kind == "none" else box,
    )  # fmt: skip
    which = Turn(question="What kind is it?", answer=kind, type="kind")
    report = Turn(question="Describe the scan.", answer=f"One body. Nodule: {kind}.", form="report", type="report")
    return (
        Dialogue(id="presence", turns=(present,)),
        Dialogue(id="both", turns=(present, which)),
        Dialogue(id="report", turns=(report,)),
    )


def write_dialogues(root: Path, images: bool = False) -> Path:
    """Write 10 volumes with three dialogues each and one text, in ``dialogues.jsonl``.

    Args:
        root: Folder.
        images: Whether there are six images as well.
    """
    volumes = make_volumes(root / "v", count=10, size=32, difficulty=0.0)
    parts = [volumes, make_images(root / "i", count=6, size=32, difficulty=0.0)] if images else [volumes]
    merged = merge(root, "dialogues", *parts)
    records = []
    for record in merged.records:
        task = merged.header.tasks["nodule" if record.kind == "volume" else "sign"]
        kind = task.classes[next(iter(record.labels.values()))]
        records.append(record.model_copy(update={"dialogues": dialogues_about(kind)}))
    if not images:
        lump = Turn(question="What is a nodule?", answer="A small lump.")
        text = Record(
            id="text", patient_id="text", split="train", kind="text", dialogues=(Dialogue(id="t", turns=(lump,)),)
        )
        records.append(text)
    Manifest(merged.header, tuple(records)).save(root / "dialogues.jsonl")
    return root / "dialogues.jsonl"


def changed(manifest: Path, **turn) -> Path:
    """Write a manifest whose turns all have some values, beside the given one."""
    loaded = Manifest.load(manifest)
    records = [
        record.model_copy(
            update={
                "dialogues": tuple(
                    dialogue.model_copy(update={"turns": tuple(one.model_copy(update=turn) for one in dialogue.turns)})
                    for dialogue in record.dialogues
                )
            }
        )
        for record in loaded.records
    ]
    target = manifest.with_name(f"{'_'.join(turn)}.jsonl")
    Manifest(loaded.header, tuple(records)).save(target)
    return target
