"""What frozen towers say about every file, computed once and kept on disk: an epoch then costs the language model only.

Features depend on the file, the contract and the towers' weights, so they are used only where none of these changes
during the run: both towers are frozen and nothing is varied.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from crossdim.datasets.manifest import Manifest
from crossdim.encoders.pretrained import learns
from crossdim.errors import ReadError
from crossdim.fusion.features import TowerFeatures
from crossdim.inference.feature_cache import FeatureCache, FileHashes, contract_hash, feature_key
from crossdim.inference.looking import towers_hash
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.training.dialogues import DialogueDataset
from crossdim.training.progress import Announcer
from crossdim.training.recipe_instruct import FeaturesSection


class KeptFeatures:
    """Features by key, from memory or from disk.

    Args:
        cache: On disk.
        memory: Bytes that are kept in memory as well.
    """

    def __init__(self, cache: FeatureCache, memory: int) -> None:
        self.cache, self._budget = cache, memory
        self._known: dict[str, TowerFeatures] = {}

    def find(self, key: str) -> TowerFeatures | None:
        """Return an entry, None if it is not kept.

        Args:
            key: Of the file, contract and weights.
        """
        found = self._known.get(key)
        if found is None:
            tensors = self.cache.load(key)
            if tensors is None:
                return None
            rows = int(tensors.pop("rows"))
            found = TowerFeatures(rows=rows, **tensors)
            self._remember(key, found)
        return found

    def keep(self, key: str, features: TowerFeatures) -> None:
        """Keep an entry.

        Args:
            key: Of the file, contract and weights.
            features: What the towers say.
        """
        self.cache.store(key, tensors_of(features) | {"rows": torch.tensor(features.rows)})
        self._remember(key, features)

    def _remember(self, key: str, features: TowerFeatures) -> None:
        if _size(features) <= self._budget:
            self._budget -= _size(features)
            self._known[key] = features


def tensors_of(features: TowerFeatures) -> dict[str, Tensor]:
    """Return the tensors that are there, by name.

    Args:
        features: What the towers say.
    """
    names = ("tokens_3d", "tokens_2d", "images", "padded")
    tensors = {name: getattr(features, name) for name in names}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def frozen(model: Med2E3ForConditionalGeneration) -> bool:
    """Return whether no tower learns.

    Args:
        model: After it was frozen.
    """
    return not any(tower is not None and learns(tower) for tower in (model.vision3d, model.vision2d))


@torch.no_grad()
def use_features(
    model: Med2E3ForConditionalGeneration,
    datasets: Sequence[DialogueDataset],
    section: FeaturesSection,
    arguments: TrainingArguments,
    memory: int,
    announcer: Announcer,
) -> None:
    """Encode every file that was not encoded before, and let the data sets give features in place of files.

    Where they would not fit on disk and in memory the files are encoded in every epoch as usual, and that is said.

    Args:
        model: Frozen towers.
        datasets: Without augmentation.
        section: The recipe's.
        arguments: Device and precision.
        memory: Bytes of features that may be kept in memory.
        announcer: Shows how far it is.
    """
    nn.Module.to(model, arguments.device).eval()
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    cache, hashes = FeatureCache(section.folder, section.limit_gib), FileHashes()
    kept = KeptFeatures(cache, memory)
    weights = towers_hash(model)
    keys = [_keys(dataset, hashes, weights, dtype) for dataset in datasets]
    total, done = sum(map(len, keys)), 0
    with arguments.main_process_first(), announcer.task("Encoding every file once") as advance:
        for dataset, own in zip(datasets, keys, strict=True):
            for place, key in enumerate(own):
                features = kept.find(key)
                if features is None:
                    features = _encode(model, dataset, place, arguments)
                    kept.keep(key, features)
                if not done and _size(features) * total > cache.limit:
                    announcer.say("The features of all files take more than features.limit_gib: nothing is kept")
                    return
                done += 1
                advance(done, total)
            dataset.remember_targets()
    for dataset, own in zip(datasets, keys, strict=True):
        dataset.features = Lookup(kept, own, dataset.files.manifest)


class Lookup:
    """Features of a data set's files by their place.

    Args:
        kept: In memory or on disk.
        keys: Of each file.
        files: Named in errors.
    """

    def __init__(self, kept: KeptFeatures, keys: Sequence[str], files: Manifest) -> None:
        self._kept, self._keys, self._files = kept, keys, files

    def __call__(self, place: int) -> TowerFeatures:
        """Return the features of a file.

        Args:
            place: Of the file.

        Raises:
            ReadError: They are gone, because something else emptied the folder.
        """
        found = self._kept.find(self._keys[place])
        if found is None:
            raise ReadError(
                f"features of {self._files.records[place].paths[0]}",
                f"are gone from {self._kept.cache.folder}, or damaged",
                "Give the same command again: it computes them again and goes on from the last checkpoint",
            )
        return found


def _keys(dataset: DialogueDataset, hashes: FileHashes, weights: str, dtype: torch.dtype) -> list[str]:
    files, contract = dataset.files.manifest, contract_hash(dataset.processor.contract)
    return [feature_key(hashes.of(files.resolve(record)), contract, weights, dtype) for record in files.records]


def _encode(
    model: Med2E3ForConditionalGeneration, dataset: DialogueDataset, place: int, arguments: TrainingArguments
) -> TowerFeatures:
    prepared = dataset.files.prepared(place)
    values = prepared.tensor[None].to(arguments.device)
    with torch.autocast(arguments.device.type, torch.bfloat16) if arguments.bf16 else nullcontext():
        if values.dim() == 5:
            found = model.encode_towers(values, padded_slices=prepared.padded_slices[None].to(values.device))
        else:
            found = model.encode_towers(None, values)
    return found.to("cpu")


def _size(features: TowerFeatures) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(features).values())
