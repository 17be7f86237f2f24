"""The labelled part of a manifest, and where fine-tuning starts: splits, contract, config, class weights."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedConfig

from crossdim.datasets.manifest import Manifest, Record, Task
from crossdim.errors import RecipeError
from crossdim.models.pimae_config import PimaeConfig
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


def split(manifest: Manifest, task: str | None, shots: int | None = None, seed: int = 0) -> Parts:
    """Return the labelled records by split.

    Args:
        manifest: All records.
        task: Name of a task; may be None where there is one.
        shots: Training records of each class; None takes all.
        seed: Of the choice of these.

    Raises:
        RecipeError: The task is unknown or ambiguous, or too few training records have a label for it.
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
    return parts if shots is None else replace(parts, train=few(parts.train, name, shots, seed))


def few(training: Manifest, task: str, shots: int, seed: int) -> Manifest:
    """Return equally many records of each class, in the manifest's order.

    The choice for more shots holds the choice for fewer, and a class's choice does not depend on the others.

    Args:
        training: Labelled records.
        task: Name of the task.
        shots: Records of each class.
        seed: Of the choice.

    Raises:
        RecipeError: A record may have several classes, or a class has fewer records.
    """
    about = training.task(task)
    if about.kind == "multilabel":
        raise RecipeError("'shots'", f"needs one class per record, and '{task}' may have several", "Leave it out")
    labels = np.array([record.labels[task] for record in training.records])
    chosen: set[int] = set()
    for label, name in enumerate(about.classes):
        places = np.flatnonzero(labels == label)
        if len(places) < shots:
            raise RecipeError(
                "'shots'",
                f"is {shots}, and class '{name}' of '{task}' has {len(places)} training records",
                "Choose fewer",
            )
        chosen |= set(np.random.default_rng((seed, label)).permutation(places)[:shots].tolist())
    return Manifest(training.header, tuple(training.records[place] for place in sorted(chosen)))


def as_images(manifest: Manifest) -> Manifest:
    """Return a manifest in which every scene is its image, for a model that looks at images alone.

    Args:
        manifest: Scenes, or anything else, which stays as it is.

    Raises:
        RecipeError: A scene has no image.
    """

    def image_of(record: Record) -> Record:
        if record.scene is None:
            return record
        if record.scene.image is None:
            reason = "is a scene without an image, and this classifier looks at images alone"
            raise RecipeError(f"record '{record.id}'", reason, "Take it out of the manifest")
        return record.model_copy(update={"kind": "image", "paths": (record.scene.image,), "scene": None})

    return Manifest(manifest.header, tuple(map(image_of, manifest.records)))


def looks_at_scenes(encoder: Path | None) -> bool:
    """Return whether an encoder is one of scenes, whose image branch is fine-tuned.

    Args:
        encoder: Folder with a config, or None.
    """
    return encoder is not None and _config_of(encoder).model_type == PimaeConfig.model_type


def _config_of(encoder: Path) -> Uni4EyeConfig | PimaeConfig:
    kind = PreTrainedConfig.get_config_dict(encoder)[0].get("model_type")
    return (PimaeConfig if kind == PimaeConfig.model_type else Uni4EyeConfig).from_pretrained(encoder)


def starting_point(
    recipe: FinetuneRecipe, parts: Parts, encoder: Path | None
) -> tuple[PreprocessingContract, Uni4EyeConfig | PimaeConfig]:
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
        config: Uni4EyeConfig | PimaeConfig = Uni4EyeConfig.preset(model.preset, **model_sizes(model, contract))
    else:
        for key in ("model", "contract"):
            if getattr(recipe, key) is not None:
                raise RecipeError(f"'{key}'", "is given, and the encoder has its own", "Leave it out")
        contract = PreprocessingContract.from_pretrained(encoder)
        config = _config_of(encoder)
    if contract.scene is not None and contract.scene.image is not None:
        source = f"the images of scenes: {contract.source}"
        contract = PreprocessingContract(image=contract.scene.image, source=source)
    kinds = {record.kind for record in parts.labelled.records}
    check_fit(contract, kinds, patches_of(config), str(encoder or "contract"))
    # A classifier knows nothing of a kind that had no labels, whatever its encoder has seen: let inference refuse it.
    contract = contract.model_copy(update={kind: None for kind in ("image", "volume") if kind not in kinds})
    names = dict(enumerate(parts.about.classes))
    config.id2label, config.label2id = names, {name: place for place, name in names.items()}
    config.task, config.problem = parts.task, parts.about.kind
    config.label_smoothing = recipe.head.label_smoothing
    config.class_weights = class_weights(parts) if recipe.head.class_weights == "balanced" else None
    if isinstance(config, PimaeConfig) and recipe.head.pooling == "cls":
        raise RecipeError("'head.pooling'", "is cls, and PiMAE's image branch has no class token", "Set it to mean")
    rate = "image_drop_path_rate" if isinstance(config, PimaeConfig) else "drop_path_rate"
    for key, value in (("pooling", recipe.head.pooling), (rate, recipe.head.drop_path_rate)):
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
    config: Uni4EyeConfig | PimaeConfig,
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
