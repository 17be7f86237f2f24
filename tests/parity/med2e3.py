"""What our Med-2E3 gives for every array of a fixture."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossdim.convert import convert_state_dict
from crossdim.encoders.pretrained import SliceView, encode_slices
from crossdim.fusion.features import VisualFeatures
from crossdim.fusion.slice_scoring import slice_keys, slice_rows
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.samples import Origin, Volume
from crossdim.transforms.presets import for_med2e3
from tests.parity.fixture import Fixture, evaluate

Values = Iterator[tuple[str, np.ndarray | Tensor]]
PLACEHOLDER = -201
BLOCK = re.compile(
    r"float32 array of shape \(([\d, ]+)\) filled with 0; the block with margins \([\w,]+\) = \(([\d, ]+)\) "
    r"on the last three axes is replaced by (float32\(.*\))"
)


def results(fixture: Fixture, dtype: torch.dtype) -> Values:
    """Yield (name, value) of every array, from the authors' weights through our converter and public models."""
    weights = {name: torch.from_numpy(value) for name, value in fixture.state_dict("model").items()}
    model, used = converted("med2e3/model", weights, fixture, dtype)
    inputs = {name.removeprefix("text."): fixture.input(name) for name in fixture.arrays if is_input(fixture, name)}
    text = {name: torch.from_numpy(value).long() for name, value in inputs.items()}
    text["attention_mask"] = text["attention_mask"].bool()
    volume = torch.from_numpy(fixture.input("volume")).to(dtype)
    with torch.no_grad():
        yield from towers(model, volume, text)
        visual = model.connect(model.encode_towers(volume))
        question = model.encode_question(text["questions"], text["questions_mask"])
        yield from scoring(model, visual, question)
    output = yield from language(fixture, model, text, volume, text["questions"], "llm")
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    ours = [gradients.get(used.get(name, "")) for name in fixture.config["grad_names"]["model"]]
    yield "llm.grad_norm", np.array([np.nan if g is None else g.double().norm().item() for g in ours])
    yield "llm.greedy_tokens", greedy(fixture, model, text, volume)
    yield from variants(fixture, weights, dtype, text, volume)
    for name in fixture.arrays:
        if name.startswith("preprocess.out"):
            size = fixture.arrays[name]["shape"][1:]
            yield name, preprocessed(fixture, "pre" + name.removeprefix("preprocess.out"), tuple(size))


def is_input(fixture: Fixture, name: str) -> bool:
    return name.startswith("text.") and fixture.arrays[name]["compare"] == "input"


def converted(
    system: str, weights: dict[str, Tensor], fixture: Fixture, dtype: torch.dtype
) -> tuple[Med2E3ForConditionalGeneration, dict[str, str]]:
    """Return our model with the authors' weights, and where each of them went."""
    config, state, report = convert_state_dict(system, weights, fixture.config)
    if report.missing:
        raise ValueError(f"the converter leaves {len(report.missing)} weights unfilled: {report.missing[:3]}")
    model = Med2E3ForConditionalGeneration(config)
    model.load_state_dict(state, strict=not config.language_config.tie_word_embeddings)
    return model.eval().to(dtype), report.used


def towers(model: Any, volume: Tensor, text: dict[str, Tensor]) -> Values:
    """The encoders, one by one."""
    yield "enc3d.tokens", model.vision3d.embed(volume)
    yield "enc3d.out", model.vision3d(volume)
    yield "enc3d.final_norm", model.vision3d.hidden_state(volume, norm=True)
    slices = volume.transpose(1, 2).flatten(0, 1)
    yield "enc2d.tokens", encode_slices(model.vision2d, slices, SliceView(layer=0))
    yield "enc2d.out", encode_slices(model.vision2d, slices, SliceView())
    read = model.question_encoder(input_ids=text["questions"], attention_mask=text["questions_mask"])
    yield "text.bert_last", read.last_hidden_state * text["questions_mask"][..., None]
    yield "text.bert_pooler", read.pooler_output


def scoring(model: Any, visual: VisualFeatures, question: Tensor) -> Values:
    """The scores of the slices and what they make of them."""
    _, slices, tokens, _ = visual.hidden_2d.shape
    z_2d = model.connector2d.fc2(visual.hidden_2d)
    z_i, scores, logits = model.fuse(visual, None, question)
    yield "tgis.z_3D", visual.z_3d
    yield "tgis.z_2D", z_2d
    yield "tgis.z_T", question
    yield "tgis.slice_to_row", slice_rows(slices, visual.rows)
    yield "tgis.key", slice_keys(model.config.key, visual.z_3d, visual.rows, z_2d.mean(dim=2), tokens)
    yield "tgis.s_r", (logits * model.config.score_temperature)[..., None]
    yield "tgis.scores", scores[..., None]
    yield "tgis.z_2D_agg", z_i[:, visual.z_3d.shape[1] :]
    yield "tgis.z_I", z_i


def prompt(fixture: Fixture, model: Any, text: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
    """Ids, mask and labels with one placeholder for each visual token, cut and padded as the fixture's config says."""
    rows = []
    for ids, mask, labels in zip(text["input_ids"], text["attention_mask"], text["labels"], strict=True):
        ids, labels = ids[mask], labels[mask]
        count = torch.where(ids == PLACEHOLDER, tokens, 1)
        shown = torch.where(ids == PLACEHOLDER, model.config.volume_token_id, ids)
        kept = slice(fixture.config["llm_max_length"])
        rows.append((shown.repeat_interleave(count)[kept], labels.repeat_interleave(count)[kept]))
    length = max(len(ids) for ids, _ in rows)
    padded: dict[str, list[Tensor]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids, labels in rows:
        left = fixture.config["llm_padding_side"] == "left"
        sides = (length - len(ids), 0) if left else (0, length - len(ids))
        padded["input_ids"].append(torch.nn.functional.pad(ids, sides, value=fixture.config["llm"]["pad_token_id"]))
        padded["attention_mask"].append(torch.nn.functional.pad(torch.ones_like(ids), sides))
        padded["labels"].append(torch.nn.functional.pad(labels, sides, value=-100))
    return {name: torch.stack(values) for name, values in padded.items()}


def language(
    fixture: Fixture, model: Any, text: dict[str, Tensor], volume: Tensor, questions: Tensor, group: str
) -> Any:
    """The language model's input and output; returns the output."""
    tokens = model.config.volume_tokens(tuple(volume.shape[2:]))
    batch = prompt(fixture, model, text, tokens)
    mask = batch["attention_mask"]
    with torch.no_grad():
        visual = model.connect(model.encode_towers(volume))
        question = model.encode_question(questions, text["questions_mask"])
        embeds, _ = model.embed(batch["input_ids"], visual, None, question)
    yield f"{group}.inputs_embeds", embeds * mask[..., None]
    yield f"{group}.attention_mask", mask
    yield f"{group}.labels", batch["labels"]
    output = model(**batch, voxel_values=volume, question_ids=questions, question_mask=text["questions_mask"])
    yield f"{group}.logits_valid", output.logits[mask.bool()]
    yield f"{group}.loss", output.loss
    return output


def greedy(fixture: Fixture, model: Any, text: dict[str, Tensor], volume: Tensor) -> Tensor:
    """The continuation of each prompt alone, with the cache and without a token that ends it."""
    count = fixture.arrays["llm.greedy_tokens"]["shape"][1]
    tokens = model.config.volume_tokens(tuple(volume.shape[2:]))
    model.generation_config.eos_token_id = None
    found = []
    for row in range(len(volume)):
        asked = text["attention_mask"][row] & (text["labels"][row] == -100)
        alone = {name: text[name][row : row + 1][:, asked] for name in ("input_ids", "attention_mask", "labels")}
        ids = prompt(fixture, model, alone, tokens)["input_ids"]
        answer = model.generate(
            ids,
            voxel_values=volume[row : row + 1],
            question_ids=text["questions"][row : row + 1],
            question_mask=text["questions_mask"][row : row + 1],
            max_new_tokens=count,
            do_sample=False,
        )
        found.append(answer[0, ids.shape[1] :])
    return torch.stack(found)


def variants(
    fixture: Fixture, weights: dict[str, Tensor], dtype: torch.dtype, text: dict[str, Tensor], volume: Tensor
) -> Values:
    """The other scoring connectors, and the first version of the paper in the full model."""
    for group in fixture.js["keys"]:
        if not group.startswith("variant"):
            continue
        shared = {name: value for name, value in weights.items() if not name.startswith("vision3d_connector.")}
        own = {name: torch.from_numpy(value) for name, value in fixture.state_dict(group).items()}
        model, _ = converted(f"med2e3/{group}", shared | own, fixture, dtype)
        in_llm = model.config.question_feature == "llm_mean"
        questions = text["llm_questions" if in_llm else "questions"]
        with torch.no_grad():
            visual = model.connect(model.encode_towers(volume))
            question = model.encode_question(questions, text["questions_mask"]) if model.config.uses_question else None
            z_i, scores, _ = model.fuse(visual, None, question)
            yield f"{group}.scores", scores[..., None]
            if group == "variant6":
                yield "variant.llm_text", question
                yield "v1.scores", scores[..., None]
                yield "v1.z_2D_agg", z_i[:, visual.z_3d.shape[1] :]
                yield from language(fixture, model, text, volume, questions, "v1")


def preprocessed(fixture: Fixture, name: str, size: tuple[int, ...]) -> Tensor:
    """The authors' evaluation preprocessing of an input, by our contract."""
    array = described(fixture.js["inputs"][name], fixture.prefix)
    voxels = array if array.ndim == 4 else array[None]
    noun = Volume(voxels, np.eye(4), "unit", Origin(name))
    return for_med2e3((size[0], size[1], size[2])).prepare(noun).tensor


def described(text: str, prefix: str) -> np.ndarray:
    """Compute an array of zeros with a block in it."""
    match = BLOCK.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not understood")
    shape, margins = (tuple(map(int, numbers.split(","))) for numbers in match.groups()[:2])
    array = np.zeros(shape, np.float32)
    block = tuple(slice(margins[2 * axis], size - margins[2 * axis + 1]) for axis, size in enumerate(shape[-3:]))
    array[(..., *block)] = evaluate(match[3], prefix)
    return array
