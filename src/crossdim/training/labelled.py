"""The labelled part of a manifest, and where fine-tuning starts: splits, contract, config, class weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossdim.datasets.manifest import Manifest, Task
from crossdim.errors import RecipeError
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.training.configs import model_sizes, patches_of
from crossdim.training.contracts import check_fit, contract_for_run
from crossdim.training.data import RecordDataset
from crossdim.training.recipe import FinetuneRecipe
from crossdim.training.sections import ContractSection, ModelSection
from crossdim.transforms.augment import Augmentation
from crossdim.transforms.contract import PreprocessingContract


@dataclass(frozen=True)
class Parts:
    """A manifest's labelled records by split.

    Attributes:
        task: Name of the task.
        about: The task.
        labelled: All labelled records.
        train: Training split.
        val: Validation split, may be empty.
        test: Test split, may be empty.
    """

    task: str
    about: Task
    labelled: Manifest
    train: Manifest
    val: Manifest
    test: Manifest

    def __iter__(self) -> Iterator[tuple[str, Manifest]]:
        """Yield name and records of every split that holds some."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        return ((name, part) for name, part in named if len(part))


def split(manifest: Manifest, task: str | None) -> Parts:
    """Return the labelled records by split.

    Args:
        manifest: All records.
        task: Name of a task; may be None where there is one.

    Raises:
        RecipeError: The task is unknown or ambiguous, or no training record has a label for it.
    """
    tasks = manifest.header.tasks
    if task is None and len(tasks) != 1:
        names = ", ".join(sorted(tasks))
        raise RecipeError(
            "'task'",
            f"is not given, and the manifest has several ({names})" if tasks else "has no labels in this manifest",
            "Name one of them" if tasks else "Prepare the manifest with labels",
        )
    name = task if task is not None else next(iter(tasks))
    labelled = manifest.for_task(name)
    parts = Parts(
        name, manifest.task(name), labelled, labelled.split("train"), labelled.split("val"), labelled.split("test")
    )
    if not len(parts.train):
        raise RecipeError(
            f"manifest '{manifest.header.name}'",
            f"has no training record with a label for '{name}'",
            "Prepare it with training, validation and test parts (crossdim prepare)",
        )
    return parts


def starting_point(
    recipe: FinetuneRecipe, parts: Parts, encoder: Path | None
) -> tuple[PreprocessingContract, Uni4EyeConfig]:
    """Return contract and config: the encoder's, or the recipe's when training from scratch.

    Args:
        recipe: What to do.
        parts: The data.
        encoder: Folder with weights, config and contract, or None.

    Raises:
        RecipeError: The recipe states what the encoder states already.
        ContractError: The data do not fit the encoder's contract.
    """
    if encoder is None:
        model = recipe.model or ModelSection()
        contract = contract_for_run(recipe.contract or ContractSection(), parts.train, model.patches)
        config = Uni4EyeConfig.preset(model.preset, **model_sizes(model, contract))
    else:
        for key in ("model", "contract"):
            if getattr(recipe, key) is not None:
                raise RecipeError(f"'{key}'", "is given, and the encoder has its own", "Leave it out")
        contract = PreprocessingContract.from_pretrained(encoder)
        config = Uni4EyeConfig.from_pretrained(encoder)
    kinds = {record.kind for record in parts.labelled.records}
    check_fit(contract, kinds, patches_of(config), str(encoder or "contract"))
    # A classifier knows nothing of a kind that had no labels, whatever its encoder has seen: let inference refuse it.
    contract = contract.model_copy(update={kind: None for kind in ("image", "volume") if kind not in kinds})
    names = dict(enumerate(parts.about.classes))
    config.id2label, config.label2id = names, {name: place for place, name in names.items()}
    config.task, config.problem = parts.task, parts.about.kind
    config.label_smoothing = recipe.head.label_smoothing
    config.class_weights = class_weights(parts) if recipe.head.class_weights == "balanced" else None
    for key in ("pooling", "drop_path_rate"):
        value = getattr(recipe.head, key)
        if value is not None:
            setattr(config, key, value)
    return contract, config


def class_weights(parts: Parts) -> list[float]:
    """Return balanced weights from the training split: ``records / (classes * records of the class)``.

    For multi-label problems it is the weight of positive examples: ``negatives / positives``. Classes without a record
    count as having one.

    Args:
        parts: The data.
    """
    classes, total = len(parts.about.classes), len(parts.train)
    counts = [0] * classes
    for record in parts.train.records:
        label = record.labels[parts.task]
        for place in label if isinstance(label, tuple) else (label,):
            counts[place] += 1
    if parts.about.kind == "multilabel":
        return [(total - count) / max(count, 1) for count in counts]
    return [total / (classes * max(count, 1)) for count in counts]


def make_dataset(
    part: Manifest,
    contract: PreprocessingContract,
    config: Uni4EyeConfig,
    recipe: FinetuneRecipe,
    name: str,
    task: str,
) -> RecordDataset:
    """Return a split's samples; only training samples are varied.

    Args:
        part: The records.
        contract: How files become tensors.
        config: Knows the patches.
        recipe: Seed, augmentation, memory.
        name: Of the split.
        task: Whose labels are given.
    """
    varied = name == "train" and recipe.augmentation != Augmentation()
    share = {"train": 0.7, "val": 0.3}.get(name, 0.0)
    return RecordDataset(
        part,
        contract,
        patches_of(config),
        recipe.seed,
        recipe.augmentation if varied else None,
        task,
        cache_bytes=int(share * recipe.hardware.cache_gib * 2**30),
    )
