"""The folder of Med-2E3, or M3D-CLIP alone → a folder that crossdim loads.

The authors save the projection of the question (``text_mlp``) and never load it: their loader leaves it at random, so
that the slices are not scored by the question. Here it is loaded; ``random_text_projection`` does as they do.

Weights stay in the numbers they are stored in (bfloat16 as released), one file at a time in memory.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from crossdim.convert.keys import KeyReport, Shape
from crossdim.convert.med2e3_folder import checked, processor_of, vit_config, whole_config
from crossdim.convert.med2e3_keys import place
from crossdim.convert.med2e3_parts import CLIP_PREFIX, FILES, PARTS, VIT_PREFIX, Weights, add_part
from crossdim.convert.med2e3_state import expected_shapes, twins
from crossdim.convert.reading import read_checkpoint
from crossdim.convert.report import ConversionReport, appearing, check_free, hash_of
from crossdim.encoders.vision3d import VisionTransformer3D
from crossdim.errors import ReadError, RecipeError
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.transforms.presets import for_med2e3

TEXT_PROJECTION = ("vision3d_connector.text_mlp.weight", "vision3d_connector.text_mlp.bias")
RANDOM_SPREAD = 0.02
"""Standard deviation of the projection that the authors' loader leaves at random."""

_MOST_NUMBERS = 2**30
"""In one file of weights: 2 GB of bfloat16."""

_AGAIN = "Download or copy it again"
_UNUSED_TOWER_PARTS = ("vision2d.head.", "vision2d.post_layernorm.", "vision3d.encoder.norm.")
"""May be missing: no feature of Med-2E3 depends on them."""


def convert_med2e3(
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    random_text_projection: int | None = None,
    heads: int | None = None,
    question_tokenizer: str | PathLike[str] | None = None,
) -> ConversionReport:
    """Convert Med-2E3's released folder, or M3D-CLIP's vision transformer, which serves as a 3D encoder.

    Args:
        source: Folder with ``args/``, ``llm/``, ``vision2d_model/``, ``vision2d_connector/``, ``vision3d_model/`` and
            ``vision3d_connector/``; or M3D-CLIP's folder or file. Nothing in them is run.
        out: Folder to make; it appears when it is complete.
        random_text_projection: Seed of a random projection of the question in place of the trained one, as the
            authors' loader leaves it; None loads the trained one.
        heads: Heads of the 3D encoder, if its width is not a usual one and no config file says.
        question_tokenizer: BERT's ``vocab.txt`` or tokenizer folder, where the released folder has none.

    Raises:
        ReadError: A file is missing, damaged, or does not fit the others.
        RecipeError: The folder to make exists already, or an option does not fit.
    """
    folder, path = check_free(out), Path(source)
    if path.is_dir() and any((path / part).is_dir() for part in PARTS):
        job = _whole(path, heads, random_text_projection, question_tokenizer)
    elif random_text_projection is not None or question_tokenizer is not None:
        raise RecipeError(
            "options for the question", "have no meaning for M3D-CLIP alone", "Leave them out, or give Med-2E3's folder"
        )
    else:
        job = _tower(path, heads)
    report = ConversionReport(
        checkpoint=path.resolve().name,
        sha256=hash_of(job.weights.files),
        layout=job.layout,
        architecture=job.model.__name__,
        out=folder,
        notes=tuple(job.notes),
        keys=job.keys,
        not_tensors=tuple(job.weights.not_tensors),
    )
    with appearing(folder) as temporary:
        job.write(temporary)
        report.write(temporary)
    return report


class _Job:
    """What is to be written.

    Args:
        layout: In words.
        model: Our class.
        config: Its sizes.
        weights: The authors'.
        notes: Assumptions and changes.
    """

    def __init__(
        self,
        layout: str,
        model: type[PreTrainedModel],
        config: PreTrainedConfig,
        weights: Weights,
        notes: list[str],
    ) -> None:
        self.layout, self.model, self.config, self.weights, self.notes = layout, model, config, weights, notes
        self.sources: dict[str, str] = {}
        self.drawn: dict[str, Tensor] = {}
        self.keys = KeyReport({}, {}, (), {})
        self.preprocessing: Any = None

    def write(self, folder: Path) -> None:
        """Write config, weights, and what prepares the input.

        Args:
            folder: An empty one.
        """
        self.config.architectures = [self.model.__name__]
        self.config.save_pretrained(folder)
        numbers = {name: prod(self.weights.shapes[source]) for name, source in self.sources.items()}
        numbers |= {name: value.numel() for name, value in self.drawn.items()}
        shards = _shards(numbers)
        sizes = 0
        places: dict[str, str] = {}
        for place_, names in enumerate(shards, 1):
            file = "model.safetensors" if len(shards) == 1 else f"model-{place_:05}-of-{len(shards):05}.safetensors"
            state = {name: self._tensor(name) for name in names}
            save_file(state, folder / file, metadata={"format": "pt"})
            sizes += sum(value.nbytes for value in state.values())
            places |= dict.fromkeys(names, file)
        if len(shards) > 1:
            index = {"metadata": {"total_size": sizes}, "weight_map": places}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        self.preprocessing.save_pretrained(folder)

    def _tensor(self, name: str) -> Tensor:
        return self.drawn[name] if name in self.drawn else self.weights[self.sources[name]].contiguous()


def _shards(numbers: Mapping[str, int]) -> list[list[str]]:
    """Share tensors out over files, in order."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, count in numbers.items():
        if shards[-1] and held + count > _MOST_NUMBERS:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += count
    return shards


def _whole(path: Path, heads: int | None, seed: int | None, question_tokenizer: str | PathLike[str] | None) -> _Job:
    """Plan the conversion of the released folder."""
    weights = Weights()
    notes: list[str] = []
    for part, prefix in PARTS.items():
        add_part(weights, path / part, prefix)
    config = whole_config(path, weights, notes, heads)
    job = _Job("Med-2E3, released folder", Med2E3ForConditionalGeneration, config, weights, notes)
    expected = checked(path, lambda: expected_shapes(job.model, job.config))
    projected = "question_projection.weight" in expected
    shapes = dict(weights.shapes)
    if seed is not None:
        if not projected:
            reason = "has no meaning here: the slices are not scored by BERT's feature"
            raise RecipeError("random_text_projection", reason, "Leave it out")
        job.drawn = _random_projection(expected, seed, weights)
        shapes = {name: shape for name, shape in shapes.items() if name not in TEXT_PROJECTION}
        notes.append(
            f"The projection of the question is drawn at random (seed {seed}), as the authors' loader leaves it: the "
            "slice scores do not follow the question."
        )
    elif projected and any(name not in shapes for name in TEXT_PROJECTION):
        file = next(file for file in weights.files if file.parent.name == "vision3d_connector")
        raise ReadError(
            file,
            "lacks 'text_mlp', the projection of the question, without which slices cannot be scored by it",
            "Give the whole file, or draw a projection as the authors' loader does (--random-text-projection SEED)",
        )
    placed = place(shapes, expected, twins(config))
    left = {name: "replaced by a random one, as by the authors' loader" for name in TEXT_PROJECTION if seed is not None}
    unused = placed.keys.unused | {name: why for name, why in left.items() if name in weights.shapes}
    missing = tuple(name for name in placed.keys.missing if name not in job.drawn)
    _check_missing(path, missing)
    job.sources, job.keys = placed.sources, replace(placed.keys, unused=unused, missing=missing)
    config.dtype = weights["llm.model.embed_tokens.weight"].dtype
    job.preprocessing = processor_of(
        path, config, notes, None if question_tokenizer is None else Path(question_tokenizer)
    )
    return job


def _random_projection(expected: Mapping[str, Shape], seed: int, weights: Weights) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(expected["question_projection.weight"], generator=generator) * RANDOM_SPREAD
    dtype = weights["vision3d_connector._connector.0.bias"].dtype
    bias = torch.zeros(expected["question_projection.bias"], dtype=dtype)
    return {"question_projection.weight": weight.to(dtype), "question_projection.bias": bias}


def _check_missing(path: Path, missing: tuple[str, ...]) -> None:
    for name in missing:
        if not name.startswith(_UNUSED_TOWER_PARTS):
            raise ReadError(path, f"has nothing for '{name}'", _AGAIN)


def _tower(path: Path, heads: int | None) -> _Job:
    """Plan the conversion of M3D-CLIP's vision transformer."""
    file = path
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            remedy = f"Give Med-2E3's released folder, or one of M3D-CLIP with {' or '.join(FILES)}"
            raise ReadError(path, f"holds none of the folders {', '.join(PARTS)}, and no weights either", remedy)
        file = found[0]
    names = read_checkpoint(file).shapes
    bare = "cls_token" in names and "patch_embedding.position_embeddings" in names
    if not bare and "vision_encoder.cls_token" not in names:
        begins = ", ".join(list(names)[:4])
        reason = f"is no M3D-CLIP: no 'vision_encoder.cls_token' (it begins with {begins})"
        raise ReadError(file, reason, "Give M3D-CLIP's model.safetensors or pretrained_ViT.bin")
    prefix = VIT_PREFIX if bare else CLIP_PREFIX
    weights = Weights()
    notes: list[str] = []
    weights.add(file, prefix)
    config = vit_config(file.parent / "config.json", weights, notes, heads)
    job = _Job("M3D-CLIP, vision transformer", VisionTransformer3D, config, weights, notes)
    own = "vision3d."
    shapes = checked(file, lambda: expected_shapes(job.model, job.config))
    expected = {own + name: shape for name, shape in shapes.items()}
    placed = place(weights.shapes, expected)
    _check_missing(file, placed.keys.missing)
    job.sources = {name.removeprefix(own): source for name, source in placed.sources.items()}
    job.keys = KeyReport(
        {source.removeprefix(prefix): name.removeprefix(own) for source, name in placed.keys.used.items()},
        {source.removeprefix(prefix): why for source, why in placed.keys.unused.items()},
        tuple(name.removeprefix(own) for name in placed.keys.missing),
        {},
    )
    config.dtype = weights[f"{VIT_PREFIX}cls_token"].dtype
    size = tuple(config.volume_size)
    job.preprocessing = for_med2e3((size[0], size[1], size[2]))
    return job
