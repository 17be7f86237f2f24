"""Med-2E3's forward pass in plain PyTorch, under the authors' names, written from the description of the released code
with a Llama as language model; and fixtures of any size made with it, in the layout of the shared ones.

It shares no code with crossdim or transformers, works in float64 and is slow on purpose.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.fixture import evaluate, fill, uniform

Weights = dict[str, Tensor]
Arrays = dict[str, np.ndarray]
Keys = list[tuple[str, list[int], str]]

LLM, SIGLIP = "llm.", "vision2d_model.vision2d_encoder.vision_model."
CLIP = "vision3d_model.vision3d_encoder."
PREPARED = (8, 16, 12)
VIT, BERT = f"{CLIP}vision_encoder.", f"{CLIP}language_encoder."


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    """A linear map, with a bias if there is one."""
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    """LayerNorm by its formula."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    """Exact GELU."""
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def gelu_tanh(x: Tensor) -> Tensor:
    """SigLIP's approximation of it."""
    return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """Attention of ``(batch, tokens, dim)``; keys and values may have fewer heads."""
    batch, tokens, dim = q.shape
    width = dim // heads
    q, k, v = (x.reshape(batch, tokens, -1, width).transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / width**0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, tokens, dim)


def blocks_of(w: Weights, stem: str) -> list[str]:
    """Names of the layers of a stack."""
    depth = 1 + max(int(name.removeprefix(stem).split(".")[0]) for name in w if name.startswith(stem))
    return [f"{stem}{place}." for place in range(depth)]


def volumes_3d(w: Weights, config: dict[str, Any], volume: Tensor) -> dict[str, Tensor]:
    """M3D-CLIP's vision transformer."""
    m3d, eps = config["m3d"], config["layer_norm_eps"]["3-D encoder"]
    patches = []
    steps = m3d["patch_size"]
    counts = [size // step for size, step in zip(m3d["img_size"], steps, strict=True)]
    for d in range(counts[0]):
        for h in range(counts[1]):
            for x in range(counts[2]):
                corner = [place * step for place, step in zip((d, h, x), steps, strict=True)]
                cut = tuple(slice(start, start + step) for start, step in zip(corner, steps, strict=True))
                patches.append(volume[(slice(None), slice(None), *cut)].movedim(1, -1).flatten(1))
    tokens = linear(torch.stack(patches, 1), w, f"{VIT}patch_embedding.patch_embeddings.1")
    tokens = tokens + w[f"{VIT}patch_embedding.position_embeddings"]
    x = torch.cat([w[f"{VIT}cls_token"].expand(len(volume), -1, -1), tokens], 1)
    for block in blocks_of(w, f"{VIT}blocks."):
        q, k, v = linear(norm(x, w, f"{block}norm1", eps), w, f"{block}attn.qkv").chunk(3, -1)
        x = x + linear(attend(q, k, v, m3d["num_heads"]), w, f"{block}attn.out_proj")
        y = gelu(linear(norm(x, w, f"{block}norm2", eps), w, f"{block}mlp.linear1"))
        x = x + linear(y, w, f"{block}mlp.linear2")
    return {"enc3d.tokens": tokens, "enc3d.out": x[:, 1:], "enc3d.final_norm": norm(x, w, f"{VIT}norm", eps)}


def slices_2d(w: Weights, config: dict[str, Any], volume: Tensor) -> dict[str, Tensor]:
    """SigLIP on every slice."""
    siglip, eps = config["siglip"], config["layer_norm_eps"]["SigLIP"]
    images = volume[:, 0].flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
    kernel, bias = (w[f"{SIGLIP}embeddings.patch_embedding.{kind}"] for kind in ("weight", "bias"))
    tokens = F.conv2d(images, kernel, bias, stride=siglip["patch_size"]).flatten(2).transpose(1, 2)
    x = tokens = tokens + w[f"{SIGLIP}embeddings.position_embedding.weight"]
    for block in blocks_of(w, f"{SIGLIP}encoder.layers."):
        y = norm(x, w, f"{block}layer_norm1", eps)
        q, k, v = (linear(y, w, f"{block}self_attn.{kind}_proj") for kind in "qkv")
        x = x + linear(attend(q, k, v, siglip["num_attention_heads"]), w, f"{block}self_attn.out_proj")
        y = gelu_tanh(linear(norm(x, w, f"{block}layer_norm2", eps), w, f"{block}mlp.fc1"))
        x = x + linear(y, w, f"{block}mlp.fc2")
    return {"enc2d.tokens": tokens, "enc2d.out": x}


def question(w: Weights, config: dict[str, Any], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """BERT."""
    eps, heads = config["layer_norm_eps"]["BERT"], config["bert"]["num_attention_heads"]
    e = f"{BERT}embeddings."
    x = w[f"{e}word_embeddings.weight"][ids] + w[f"{e}position_embeddings.weight"][: ids.shape[1]]
    x = norm(x + w[f"{e}token_type_embeddings.weight"][0], w, f"{e}LayerNorm", eps)
    for block in blocks_of(w, f"{BERT}encoder.layer."):
        q, k, v = (linear(x, w, f"{block}attention.self.{kind}") for kind in ("query", "key", "value"))
        y = attend(q, k, v, heads, mask.bool()[:, None, None])
        x = norm(x + linear(y, w, f"{block}attention.output.dense"), w, f"{block}attention.output.LayerNorm", eps)
        y = linear(gelu(linear(x, w, f"{block}intermediate.dense")), w, f"{block}output.dense")
        x = norm(x + y, w, f"{block}output.LayerNorm", eps)
    return {
        "text.bert_last": x * mask[..., None],
        "text.bert_pooler": torch.tanh(linear(x[:, 0], w, f"{BERT}pooler.dense")),
    }


def llama(w: Weights, config: dict[str, Any], x: Tensor, mask: Tensor) -> Tensor:
    """Logits of a Llama for input embeddings."""
    llm, eps, theta = config["llm"], config["llm_rms_norm_eps"], config["llm_rope_theta"]
    heads, tokens = llm["num_attention_heads"], x.shape[1]
    width = x.shape[-1] // heads
    angle = torch.arange(tokens)[:, None] / theta ** (torch.arange(0, width, 2).double() / width)
    cos, sin = (torch.cat([f(angle), f(angle)], -1) for f in (torch.cos, torch.sin))
    allowed = torch.ones(tokens, tokens).tril().bool() & mask.bool()[:, None, None]

    def rms(y: Tensor, name: str) -> Tensor:
        return y / (y.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{LLM}model.{name}.weight"]

    def turned(y: Tensor) -> Tensor:
        parts = y.reshape(*y.shape[:2], -1, width)
        half = torch.cat([-parts[..., width // 2 :], parts[..., : width // 2]], -1)
        return (parts * cos[:, None] + half * sin[:, None]).reshape(y.shape)

    for block in blocks_of(w, f"{LLM}model.layers."):
        short = block.removeprefix(f"{LLM}model.")
        y = rms(x, f"{short}input_layernorm")
        q, k, v = (linear(y, w, f"{block}self_attn.{kind}_proj") for kind in "qkv")
        x = x + linear(attend(turned(q), turned(k), v, heads, allowed), w, f"{block}self_attn.o_proj")
        y = rms(x, f"{short}post_attention_layernorm")
        gate = linear(y, w, f"{block}mlp.gate_proj")
        y = gate * torch.sigmoid(gate) * linear(y, w, f"{block}mlp.up_proj")
        x = x + linear(y, w, f"{block}mlp.down_proj")
    return linear(rms(x, "norm"), w, f"{LLM}lm_head")


def connected(w: Weights, config: dict[str, Any], out3d: Tensor, out2d: Tensor) -> tuple[Tensor, Tensor]:
    """z_3D and z_2D."""
    m3d = config["m3d"]
    grid = [size // step for size, step in zip(m3d["img_size"], m3d["patch_size"], strict=True)]
    pooled = F.avg_pool3d(out3d.transpose(1, 2).reshape(len(out3d), -1, *grid), 2).flatten(2).transpose(1, 2)
    both = []
    for x, part in ((pooled, "vision3d"), (out2d, "vision2d")):
        hidden = gelu(linear(x, w, f"{part}_connector._connector.0"))
        both.append(linear(hidden, w, f"{part}_connector._connector.2"))
    return both[0], both[1].reshape(len(out3d), -1, *both[1].shape[1:])


def rows_of(config: dict[str, Any]) -> int:
    """Rows of pooled 3D tokens along the slice axis."""
    return config["m3d"]["img_size"][0] // config["m3d"]["patch_size"][0] // 2


def scored(
    w: Weights, config: dict[str, Any], both: tuple[Tensor, Tensor], text: Tensor | None, variant: int
) -> dict[str, Tensor]:
    """Keys, relevance and scores of a scoring connector."""
    z3, z2 = both
    batch, slices, _, dim = z2.shape
    rows = rows_of(config)
    by_row = z3.reshape(batch, rows, -1, dim)
    keys = []
    for j in range(slices):
        row = by_row[:, j * rows // slices]
        tokens = {
            6: (row, z2[:, j]), 9: (row, z2[:, j]), 15: (row, z2[:, j]), 10: (row,), 13: (row,),
            11: (z2[:, j],), 14: (z2[:, j],), 12: (z3, z2[:, j]),
        }[variant]  # fmt: skip
        keys.append(torch.cat(tokens, 1).mean(1))
    key = torch.stack(keys, 1)
    if text is None:
        relevance = linear(key, w, "vision3d_connector.scoring_module")
    else:
        relevance = (key * text[:, None]).sum(-1, keepdim=True)
    temperature = 5 if variant in (10, 11, 15) else 1
    return {"key": key, "s_r": relevance, "scores": torch.softmax(relevance / temperature, 1)}


def fused(z3: Tensor, z2: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum of the slices, and all visual tokens."""
    summed = (scores[..., None] * z2).sum(1)
    return summed, torch.cat([z3, summed], 1)


def inserted(w: Weights, text: Arrays, visual: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input embeddings, mask and labels with the visual tokens in place of the placeholder, padded on the right."""
    rows, labels = [], []
    for ids, mask, label, z in zip(text["input_ids"], text["attention_mask"], text["labels"], visual, strict=True):
        ids, label = torch.from_numpy(ids[mask]), torch.from_numpy(label[mask])
        place = int((ids == -201).nonzero())
        table = w[f"{LLM}model.embed_tokens.weight"]
        rows.append(torch.cat([table[ids[:place]], z, table[ids[place + 1 :]]])[:kept])
        labels.append(torch.cat([label[:place], torch.full((len(z),), -100), label[place + 1 :]])[:kept])
    length = max(map(len, rows))
    mask = torch.tensor([[float(place < len(row)) for place in range(length)] for row in rows])
    embeds = torch.stack([torch.cat([row, row.new_zeros(length - len(row), row.shape[1])]) for row in rows])
    padded = torch.stack([torch.cat([row, row.new_full((length - len(row),), -100)]) for row in labels])
    return embeds, mask, padded


def answered(w: Weights, config: dict[str, Any], text: Arrays, visual: Tensor) -> dict[str, Tensor]:
    """What the language model makes of it."""
    embeds, mask, labels = inserted(w, text, visual, config["llm_max_length"])
    logits = llama(w, config, embeds, mask)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    valid = logits[mask.bool()]
    return {"inputs_embeds": embeds, "attention_mask": mask, "labels": labels, "logits_valid": valid, "loss": loss}


def greedy(w: Weights, config: dict[str, Any], text: Arrays, visual: Tensor, count: int) -> Tensor:
    """The most likely continuation of every prompt, without a cache."""
    found = []
    for place in range(len(visual)):
        real = text["attention_mask"][place] & (text["labels"][place] == -100)
        alone = {"input_ids": text["input_ids"][place][real][None]}
        alone["attention_mask"] = np.ones_like(alone["input_ids"], bool)
        alone["labels"] = np.full_like(alone["input_ids"], -100)
        tokens: list[int] = []
        for _ in range(count):
            embeds, _, _ = inserted(w, alone, visual[place : place + 1], 10**6)
            more = w[f"{LLM}model.embed_tokens.weight"][torch.tensor(tokens, dtype=torch.long)][None]
            embeds = torch.cat([embeds, more], 1)
            tokens.append(int(llama(w, config, embeds, torch.ones(embeds.shape[:2]))[0, -1].argmax()))
        found.append(tokens)
    return torch.tensor(found)


class Names:
    """A growing list of names, shapes and kinds."""

    def __init__(self) -> None:
        self.keys: Keys = []

    def table(self, name: str, *shape: int) -> None:
        self.keys.append((name, list(shape), "table"))

    def linear(self, name: str, out: int, *into: int, bias: bool = True) -> None:
        self.keys.append((f"{name}.weight", [out, *into], "weight"))
        if bias:
            self.keys.append((f"{name}.bias", [out], "bias"))

    def norm(self, name: str, width: int, bias: bool = True) -> None:
        self.keys.append((f"{name}.weight", [width], "norm_weight"))
        if bias:
            self.keys.append((f"{name}.bias", [width], "bias"))


def llama_keys(add: Names, llm: dict[str, int]) -> None:
    """The language model."""
    dim, inner = llm["hidden_size"], llm["intermediate_size"]
    narrow = dim // llm["num_attention_heads"] * llm["num_key_value_heads"]
    add.table(f"{LLM}model.embed_tokens.weight", llm["vocab_size"], dim)
    for block in (f"{LLM}model.layers.{place}." for place in range(llm["num_hidden_layers"])):
        for kind, out in (("q", dim), ("k", narrow), ("v", narrow), ("o", dim)):
            add.linear(f"{block}self_attn.{kind}_proj", out, dim, bias=False)
        for kind, out, into in (("gate", inner, dim), ("up", inner, dim), ("down", dim, inner)):
            add.linear(f"{block}mlp.{kind}_proj", out, into, bias=False)
        add.norm(f"{block}input_layernorm", dim, bias=False)
        add.norm(f"{block}post_attention_layernorm", dim, bias=False)
    add.norm(f"{LLM}model.norm", dim, bias=False)
    add.linear(f"{LLM}lm_head", llm["vocab_size"], dim, bias=False)


def siglip_keys(add: Names, siglip: dict[str, int]) -> None:
    """The encoder of slices, with the pooling head that is never used."""
    dim, inner, patch = siglip["hidden_size"], siglip["intermediate_size"], siglip["patch_size"]
    add.linear(f"{SIGLIP}embeddings.patch_embedding", dim, 3, patch, patch)
    add.table(f"{SIGLIP}embeddings.position_embedding.weight", (siglip["image_size"] // patch) ** 2, dim)
    for block in (f"{SIGLIP}encoder.layers.{place}." for place in range(siglip["num_hidden_layers"])):
        for kind in ("k", "v", "q", "out"):
            add.linear(f"{block}self_attn.{kind}_proj", dim, dim)
        add.norm(f"{block}layer_norm1", dim)
        add.norm(f"{block}layer_norm2", dim)
        add.linear(f"{block}mlp.fc1", inner, dim)
        add.linear(f"{block}mlp.fc2", dim, inner)
    add.norm(f"{SIGLIP}post_layernorm", dim)
    add.table(f"{SIGLIP}head.probe", 1, 1, dim)
    add.keys.append((f"{SIGLIP}head.attention.in_proj_weight", [3 * dim, dim], "weight"))
    add.keys.append((f"{SIGLIP}head.attention.in_proj_bias", [3 * dim], "bias"))
    add.linear(f"{SIGLIP}head.attention.out_proj", dim, dim)
    add.norm(f"{SIGLIP}head.layernorm", dim)
    add.linear(f"{SIGLIP}head.mlp.fc1", inner, dim)
    add.linear(f"{SIGLIP}head.mlp.fc2", dim, inner)


def clip_keys(add: Names, m3d: dict[str, Any], bert: dict[str, int]) -> None:
    """The encoder of volumes, BERT, and what only contrastive training used."""
    dim, text = m3d["hidden_size"], bert["hidden_size"]
    add.keys.append((f"{CLIP}logit_scale", [], "bias"))
    add.table(f"{VIT}cls_token", 1, 1, dim)
    tokens = math.prod(size // step for size, step in zip(m3d["img_size"], m3d["patch_size"], strict=True))
    add.table(f"{VIT}patch_embedding.position_embeddings", 1, tokens, dim)
    add.linear(f"{VIT}patch_embedding.patch_embeddings.1", dim, math.prod(m3d["patch_size"]))
    for block in (f"{VIT}blocks.{place}." for place in range(m3d["num_layers"])):
        add.linear(f"{block}mlp.linear1", m3d["mlp_dim"], dim)
        add.linear(f"{block}mlp.linear2", dim, m3d["mlp_dim"])
        add.norm(f"{block}norm1", dim)
        add.norm(f"{block}norm2", dim)
        add.linear(f"{block}attn.out_proj", dim, dim)
        add.linear(f"{block}attn.qkv", 3 * dim, dim, bias=False)
    add.norm(f"{VIT}norm", dim)
    for name, rows in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        add.table(f"{BERT}embeddings.{name}_embeddings.weight", bert[rows], text)
    add.norm(f"{BERT}embeddings.LayerNorm", text)
    for block in (f"{BERT}encoder.layer.{place}." for place in range(bert["num_hidden_layers"])):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            add.linear(f"{block}{name}", text, text)
        add.norm(f"{block}attention.output.LayerNorm", text)
        add.linear(f"{block}intermediate.dense", bert["intermediate_size"], text)
        add.linear(f"{block}output.dense", text, bert["intermediate_size"])
        add.norm(f"{block}output.LayerNorm", text)
    add.linear(f"{BERT}pooler.dense", text, text)
    add.linear(f"{CLIP}mm_vision_proj", dim, dim)
    add.linear(f"{CLIP}mm_language_proj", dim, dim)


def connector_keys(config: dict[str, Any], variant: int) -> Keys:
    """A scoring connector."""
    dim, add = config["llm"]["hidden_size"], Names()
    add.linear("vision3d_connector._connector.0", dim, config["m3d"]["hidden_size"])
    add.linear("vision3d_connector._connector.2", dim, dim)
    if variant in (9, 13, 14):
        add.linear("vision3d_connector.scoring_module", 1, dim)
    elif variant in (10, 11, 15):
        add.linear("vision3d_connector.text_mlp", dim, config["bert"]["hidden_size"])
    return add.keys


def official_keys(config: dict[str, Any]) -> dict[str, Keys]:
    """Names, shapes and kinds of the state dict, and of the variants' connectors."""
    add, dim = Names(), config["llm"]["hidden_size"]
    llama_keys(add, config["llm"])
    siglip_keys(add, config["siglip"])
    add.linear("vision2d_connector._connector.0", dim, config["siglip"]["hidden_size"])
    add.linear("vision2d_connector._connector.2", dim, dim)
    clip_keys(add, config["m3d"], config["bert"])
    others = {f"variant{variant}": connector_keys(config, variant) for variant in (6, 9, 10, 11, 12, 13, 14)}
    return {"model": add.keys + connector_keys(config, 15)} | others


def token_inputs(config: dict[str, Any], prefix: str) -> Arrays:
    """Token ids, masks and labels; one placeholder in each row."""
    parts, vocab = config["parts"], config["llm"]["vocab_size"]
    length = max(before + 1 + after for before, after, _ in parts)
    ids = np.full((len(parts), length), config["llm"]["pad_token_id"], np.int64)
    labels, mask = np.full_like(ids, -100), np.zeros(ids.shape, bool)
    drawn = 4 + np.floor((vocab - 4) * uniform(f"{prefix}input:ids", ids.shape)).astype(np.int64)
    for row, (before, after, learned) in enumerate(parts):
        real = before + 1 + after
        ids[row, :real], mask[row, :real] = drawn[row, :real], True
        ids[row, before] = -201
        labels[row, real - learned : real] = ids[row, real - learned : real]
    questions_mask = np.arange(config["q_max"]) < np.array(config["q_len"])[:, None]
    both = {}
    for name, size in (("questions", config["bert"]["vocab_size"]), ("llm_questions", vocab)):
        shape = questions_mask.shape
        some = 4 + np.floor((size - 4) * uniform(f"{prefix}input:{name}", shape)).astype(np.int64)
        both[name] = some * questions_mask
    return {
        "text.input_ids": ids,
        "text.attention_mask": mask,
        "text.labels": labels,
        "text.questions": both["questions"],
        "text.questions_mask": questions_mask.astype(np.int64),
        "text.llm_questions": both["llm_questions"],
    }


def forward(config: dict[str, Any], groups: dict[str, Keys], inputs: Arrays, volume: Tensor, prefix: str) -> Arrays:
    """Every array of the model and its variants."""
    text = {name.removeprefix("text."): value for name, value in inputs.items()}
    w = {name: torch.from_numpy(fill(name, tuple(shape), prefix)).double() for name, shape, _ in groups["model"]}
    w = {name: value.requires_grad_() for name, value in w.items()}
    found = volumes_3d(w, config, volume)
    found |= slices_2d(w, config, volume)
    found |= question(w, config, torch.from_numpy(text["questions"]), torch.from_numpy(text["questions_mask"]))
    z3, z2 = connected(w, config, found["enc3d.out"], found["enc2d.out"])
    z_text = linear(found["text.bert_pooler"], w, "vision3d_connector.text_mlp")
    main = scored(w, config, (z3, z2), z_text, 15)
    summed, visual = fused(z3, z2, main["scores"])
    slices, rows = z2.shape[1], rows_of(config)
    found |= {"tgis.z_3D": z3, "tgis.z_2D": z2, "tgis.z_T": z_text}
    found["tgis.slice_to_row"] = torch.tensor([j * rows // slices for j in range(slices)])
    found |= {f"tgis.{name}": value for name, value in main.items()} | {"tgis.z_2D_agg": summed, "tgis.z_I": visual}
    llm = answered(w, config, text, visual)
    llm["loss"].backward()
    norms = [w[name].grad for name in config["grad_names"]["model"]]
    found |= {f"llm.{name}": value for name, value in llm.items()}
    found["llm.grad_norm"] = torch.tensor([math.nan if g is None else float(g.norm()) for g in norms])
    with torch.no_grad():
        found["llm.greedy_tokens"] = greedy(w, config, text, visual, 5)
        mask = torch.from_numpy(text["questions_mask"]).double()[..., None]
        embedded = w[f"{LLM}model.embed_tokens.weight"][torch.from_numpy(text["llm_questions"])]
        found["variant.llm_text"] = (embedded * mask).sum(1) / mask.sum(1)
        for group in groups:
            if group == "model":
                continue
            number = int(group.removeprefix("variant"))
            own = {
                name: torch.from_numpy(fill(name, tuple(shape), prefix)).double() for name, shape, _ in groups[group]
            }
            guide = {9: None, 13: None, 14: None, 10: z_text, 11: z_text}.get(number, found["variant.llm_text"])
            found[f"{group}.scores"] = scored(own, config, (z3, z2), guide, number)["scores"]
        found["v1.scores"] = found["variant6.scores"]
        found["v1.z_2D_agg"], visual = fused(z3, z2, found["v1.scores"])
        first = answered(w, config, text, visual)
        found |= {f"v1.{name}": first[name] for name in ("inputs_embeds", "logits_valid", "loss")}
    return {name: value.detach().numpy() for name, value in found.items()}


def entry(name: str, value: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Describe one array as the fixtures do; large ones are stored in part."""
    described: dict[str, Any] = {"shape": list(value.shape), "stored": "full", "compare": "close"}
    if value.dtype.kind in "ib" or name == "llm.attention_mask":
        given = name.startswith("text.")
        return described | {"compare": "input" if given else "exact"}, value
    in_float32 = name.startswith(("llm.", "v1.l"))
    described |= {"rel_tol": 2e-5, "rel_tol_float64": 1e-5 if in_float32 else 5e-7}
    if name == "llm.grad_norm":
        described |= {"compare": "elementwise", "rel_tol": 1e-4, "rel_tol_float64": 1e-4}
    known = value[~np.isnan(value)].astype(np.float64)
    if value.ndim:
        described |= {"absmax": float(np.abs(known).max()), "mean": float(known.mean())}
        described["l2"] = float(np.sqrt((known**2).sum()))
    if value.size > 8000:
        stride = next(s for s in range(3, 200, 2) if all(np.gcd(s, size) == 1 for size in value.shape))
        described |= {"stored": "strided", "stride": stride}
        value = value.reshape(-1)[::stride]
    return described, value if name == "llm.grad_norm" else value.astype(np.float32)


def write_fixture(path: Path, config: dict[str, Any], prefix: str) -> Path:
    """Make a fixture of the given sizes and return the path of its ``.npz``."""
    groups = official_keys(config)
    config["grad_names"] = {"model": [name for name, _, _ in groups["model"]]}
    size, half = config["m3d"]["img_size"], config["m3d"]["img_size"][1] // 8
    batch = len(config["parts"])
    volume = (
        f"float32(0.75 * C + 0.25 * uniform('input:volume', ({batch}, 1, {size[0]}, {size[1]}, {size[2]}))), "
        f"C = uniform('input:volume.coarse', ({batch}, 1, {size[0]}, {half}, {size[2] // 8})) "
        "with rows and columns repeated 8x8 times"
    )
    block = "float32(2**-24 + uniform('input:pre0', (1, 7, 9, 12)))"
    crop = (
        "float32 array of shape (1, 10, 12, 14) filled with 0; the block with margins "
        f"(front,back,top,bottom,left,right) = (2, 1, 0, 3, 1, 1) on the last three axes is replaced by {block}"
    )
    arrays: Arrays = token_inputs(config, prefix)
    arrays |= forward(config, groups, dict(arrays), torch.from_numpy(evaluate(volume, prefix)).double(), prefix)
    cropped = torch.from_numpy(evaluate(block, prefix)).double()[None]
    arrays["preprocess.out0"] = F.interpolate(cropped, PREPARED, mode="trilinear", align_corners=False)[0].numpy()
    entries = {name: entry(name, value) for name, value in arrays.items()}
    checked = [(name, fill(name, tuple(shape), prefix).astype(np.float64)) for name, shape, _ in groups["model"][-6:]]
    description = {
        "format": "parity-fixture-1",
        "system": "med2e3",
        "prefix": prefix,
        "config": config,
        "inputs": {"volume": volume, "pre0": crop},
        "formula_check": [["model", name, list(value.reshape(-1)[:3]), value.sum()] for name, value in checked],
        "keys": groups,
        "arrays": {name: described for name, (described, _) in entries.items()},
    }
    np.savez(path, **{name: stored for name, (_, stored) in entries.items()})
    path.with_suffix(".json").write_text(json.dumps(description), encoding="utf-8")
    return path
