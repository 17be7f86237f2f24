"""The contract that Med-2E3 keeps, whatever its parts and options."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, LogitsProcessorList, TextStreamer

import crossdim.models.auto  # noqa: F401
from crossdim.errors import ContractError
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration, TowerFeatures
from crossdim.models.med2e3_config import PRESETS, Med2E3Config

SIZE, SLICES, VOCABULARY = (8, 16, 16), 8, 64
VOLUME, IMAGE = 64, 65
WIDTHS = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
UNI4EYE = {
    "model_type": "uni4eye",
    "image_size": 16,
    "patch_size": 8,
    "volume_size": SIZE,
    "volume_patch_size": (2, 4, 8),
    **WIDTHS,
}
TOWERS_2D = {
    "siglip": {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8, **WIDTHS},
    "siglip2": {"model_type": "siglip2_vision_model", "num_patches": 4, "patch_size": 8, **WIDTHS},
    "clip": {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, **WIDTHS},
    "dinov2": {"model_type": "dinov2", "image_size": 16, "patch_size": 8, **WIDTHS},
    "dinov3": {"model_type": "dinov3_vit", "image_size": 16, "patch_size": 8, **WIDTHS},
    "uni4eye": UNI4EYE,
}
LANGUAGE = {
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    **WIDTHS,
}
LANGUAGE_MODELS = ["llama", "phi3", "qwen2", "qwen3", "smollm3"]
PARTS = {
    "vision3d_config": {
        "model_type": "vision_transformer_3d",
        "volume_size": SIZE,
        "volume_patch_size": (2, 4, 8),
        **WIDTHS,
    },
    "vision2d_config": TOWERS_2D["siglip"],
    "language_config": {"model_type": "llama", **LANGUAGE},
    "question_config": {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 32, **WIDTHS},
    "volume_token_id": VOLUME,
    "image_token_id": IMAGE,
}


def build(**options):
    """Return a tiny model whose weights are large enough to make everything matter."""
    torch.manual_seed(0)
    model = Med2E3ForConditionalGeneration(Med2E3Config(**{**PARTS, "initializer_range": 0.3, **options}))
    with torch.no_grad():
        for part in (model.vision3d, model.vision2d, model.question_encoder, model.language_model):
            for parameter in [] if part is None else part.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(8)
    return model.eval()


def volumes(count=2, seed=0):
    return torch.rand(count, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


def text(*ids):
    """Return input ids: numbers are text, "v" and "i" a placeholder of a tiny model's volume or image."""
    lengths = {"v": (VOLUME, build_lengths.volume), "i": (IMAGE, build_lengths.image)}
    pieces = [[n] if isinstance(n, int) else [lengths[n][0]] * lengths[n][1] for n in ids]
    return torch.tensor([[n for piece in pieces for n in piece]])


class build_lengths:  # noqa: N801
    volume, image = 2 * 2 * 1 + 4, 4


def pad(rows, side="right", filler=0):
    """Return rows of unequal length as one batch, and its mask."""
    longest = max(row.shape[1] for row in rows)
    padded, masks = [], []
    for row in rows:
        missing = torch.full((1, longest - row.shape[1]), filler)
        ones, zeros = torch.ones_like(row), torch.zeros_like(missing)
        order = (missing, row) if side == "left" else (row, missing)
        padded.append(torch.cat(order, dim=1))
        masks.append(torch.cat((zeros, ones) if side == "left" else (ones, zeros), dim=1))
    return torch.cat(padded), torch.cat(masks)


def batch(count=2, answer=3):
    """Return the arguments for some samples of one volume and one question each."""
    rows = [torch.cat([text(5, "v", 6, 7), torch.arange(10 + k, 10 + k + answer)[None]], 1) for k in range(count)]
    input_ids = torch.cat(rows)
    labels = input_ids.clone()
    labels[:, :-answer] = -100
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "voxel_values": volumes(count),
        "question_ids": torch.tensor([[2, 3, 4], [5, 6, 0], [7, 8, 9]])[:count],
        "question_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]])[:count],
    }


OPTIONS = [
    {},
    {"slice_weights": "tgis_2d_only"},
    {"slice_weights": "tgis_3d_only"},
    {"score_key": "global_3d", "question_feature": "llm_mean", "score_temperature": 1},
    {"slice_weights": "learned", "score_key": "3d"},
    {"slice_weights": "learned", "score_key": "2d", "fusion": "2d_only"},
    {"slice_weights": "uniform"},
    {"slice_weights": "max", "vision2d_norm": True},
    {"slice_weights": "top_k", "score_top_k": 4},
    {"question_feature": "mlp", "vision3d_norm": True},
    {"question_feature": "llm_mean"},
    {"fusion": "3d_only"},
    {"fusion": "2d_only"},
    {"fusion": "2d_only", "slice_weights": "tgis_2d_only", "slice_loss_weight": 0.5},
    {"vision3d_layer": -2, "vision2d_layer": -2, "slice_loss_weight": 1},
    {"vision3d_config": UNI4EYE, "vision2d_config": UNI4EYE},
    {"pool_size": (1, 1, 1), "vision2d_mean": 0.5, "vision2d_std": [0.5, 0.5, 0.5]},
    {"language_config": {"model_type": "llama", **LANGUAGE, "tie_word_embeddings": True}},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options)) or "released")


def arguments(model, **more):
    """Return a batch whose placeholders are as long as this model's volumes."""
    tokens, given = model.config.volume_tokens(SIZE), batch()
    if tokens != build_lengths.volume:
        ids, labels = given["input_ids"], given["labels"]
        middle = torch.full((2, tokens), VOLUME)
        given["input_ids"] = torch.cat([ids[:, :1], middle, ids[:, 1 + build_lengths.volume :]], 1)
        given["labels"] = torch.cat([labels[:, :1], middle * 0 - 100, labels[:, 1 + build_lengths.volume :]], 1)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
    if model.config.slice_loss_weight:
        given["slice_targets"] = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 0], [-1] * 8])
    return {**given, **more}


@each_option
def test_every_trainable_parameter_gets_a_gradient(options):
    model = build(**options).train()
    output = model(**arguments(model))
    output.loss.backward()
    # The softmax takes away what is the same for every key or slice; rounding leaves it nothing or next to nothing.
    constant = ("k_proj.bias", "key.bias", "scorer.linear.bias")
    without = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not (p.grad.any() or name.endswith(constant)))
    ]
    assert without == []
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and not name.startswith("vision")]
    assert frozen == []


@each_option
def test_a_saved_model_comes_back_bit_for_bit(options, tmp_path):
    model = build(**options)
    given = arguments(model)
    before = model(**given)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert isinstance(again, Med2E3ForConditionalGeneration)
    after = again(**given)
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.loss, before.loss)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@each_option
def test_scores_are_a_distribution_over_the_slices(options):
    model = build(**options)
    scores = model(**arguments(model)).slice_scores
    if model.config.fusion == "3d_only":
        assert scores is None
    else:
        assert scores.shape == (2, SLICES)
        torch.testing.assert_close(scores.sum(dim=1), torch.ones(2))
        assert (scores >= 0).all()


@pytest.mark.parametrize("tower", TOWERS_2D)
def test_every_2d_tower_works_and_sees_the_slices(tower):
    model = build(vision2d_config=TOWERS_2D[tower])
    given = batch()
    output = model(**given)
    assert output.logits.isfinite().all()
    moved = given["voxel_values"].clone()
    moved[0, :, 3] = moved[0, :, 3].flip(-1)
    tokens = [model.encode_towers(x).tokens_2d for x in (given["voxel_values"], moved)]
    assert ((tokens[0] - tokens[1]).abs().sum((2, 3)) > 1e-4).nonzero().tolist() == [[0, 3]]
    assert not torch.allclose(output.logits[0], model(**{**given, "voxel_values": moved}).logits[0])


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_every_language_model_learns_and_answers(family):
    model = build(language_config={"model_type": family, **LANGUAGE}).train()
    given = batch()
    model(**given).loss.backward()
    assert model.connector3d.fc1.weight.grad.any()
    assert_greedy_is_a_loop(model.eval(), given)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "mamba"])
def test_so_do_those_with_learned_positions_with_none_and_without_attention(family):
    sizes = {name: LANGUAGE[name] for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    widths = {name: WIDTHS[name] for name in ("hidden_size", "num_hidden_layers")}
    widths |= {} if family == "mamba" else {"num_attention_heads": 2}
    model = build(language_config={"model_type": family, **sizes, **widths}).train()
    model(**batch()).loss.backward()
    assert model.connector2d.fc1.weight.grad.any()
    assert_greedy_is_a_loop(model.eval(), batch())


@torch.no_grad()
def test_uni4eye_towers_equal_the_standalone_encoder_bit_for_bit(tmp_path):
    model, x = build(vision3d_config=UNI4EYE, vision2d_config=UNI4EYE, pool_size=(1, 1, 1)), volumes()
    for part, values, tokens in (
        (model.vision3d, x, model.encode_towers(x).tokens_3d),
        (model.vision2d, x[:, 0].reshape(-1, 1, 16, 16).expand(-1, 3, -1, -1), model.encode_towers(x).tokens_2d),
    ):
        part.save_pretrained(tmp_path)
        alone = AutoModel.from_pretrained(tmp_path).eval()
        assert torch.equal(tokens.reshape(len(values), -1, 24), alone(values).last_hidden_state[:, 1:])


@torch.no_grad()
def test_what_the_language_model_reads_is_the_volume_then_the_weighted_slices():
    model, given = build(), batch()
    visual = model.connect(model.encode_towers(given["voxel_values"]))
    question = model.encode_question(given["question_ids"], given["question_mask"])
    z_i, scores, _ = model.fuse(visual, None, question)
    embeds, same = model.embed(given["input_ids"], visual, None, question)
    assert torch.equal(same, scores)
    assert torch.equal(embeds[:, 1 : 1 + z_i.shape[1]], z_i)
    assert torch.equal(z_i[:, :4], visual.z_3d)
    z_2d = (scores[..., None, None] * model.connector2d.fc2(visual.hidden_2d)).sum(dim=1)
    torch.testing.assert_close(z_i[:, 4:], z_2d, rtol=1e-4, atol=1e-4)
    table = model.get_input_embeddings().weight
    assert torch.equal(embeds[:, 0], table[given["input_ids"][:, 0]])
    assert torch.equal(embeds[:, 1 + z_i.shape[1] :], table[given["input_ids"][:, 1 + z_i.shape[1] :]])
    torch.testing.assert_close(model(inputs_embeds=embeds).logits, model(**given).logits)


@torch.no_grad()
def test_the_padding_of_a_question_changes_nothing():
    model, given = build(), batch()
    longer = torch.nn.functional.pad(given["question_ids"], (0, 20))
    mask = torch.nn.functional.pad(given["question_mask"], (0, 20))
    seen = []
    model.question_encoder.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for feature in ("linear", "llm_mean"):
        model = build(question_feature=feature) if feature == "llm_mean" else model
        torch.testing.assert_close(
            model.encode_question(longer, mask), model.encode_question(given["question_ids"], given["question_mask"])
        )
    assert seen == [3, 3]


@torch.no_grad()
def test_the_mean_embedding_is_over_the_questions_real_tokens():
    model = build(question_feature="llm_mean")
    assert model.question_encoder is None
    feature = model.encode_question(torch.tensor([[9, 4, 0]]), torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(feature[0], model.get_input_embeddings().weight[[9, 4]].mean(dim=0))


def test_the_question_guides_the_scores_only_where_the_options_say_so():
    for options, guided in (({}, True), ({"slice_weights": "learned"}, False), ({"slice_weights": "max"}, False)):
        model, given = build(**options), batch()
        other = {**given, "question_ids": given["question_ids"].flip(1) + 1}
        scores = model(**given).slice_scores, model(**other).slice_scores
        assert torch.equal(*scores) != guided


def mixed_rows():
    """Return text alone, one volume, two volumes and an image, several turns: with the parts that they need."""
    rows = [text(5, 6, 7, 8), text(5, "v", 6), text(3, "v", 4, "i", 9, "v", 2, 11), text("v", 6, 7, 12, 13, 14)]
    counts = [(0, 0), (1, 0), (2, 1), (1, 0)]
    questions = torch.tensor([[2, 3, 4], [5, 6, 7], [8, 9, 10], [11, 12, 13]])
    return rows, counts, volumes(4), torch.rand(1, 3, 16, 16), questions


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_a_mixed_batch_gives_the_logits_of_its_samples_one_by_one(side):
    model = build()
    rows, counts, voxels, pixels, questions = mixed_rows()
    ids, mask = pad(rows, side)
    together = model(
        input_ids=ids, attention_mask=mask, voxel_values=voxels, pixel_values=pixels, question_ids=questions
    )
    start, scores = 0, []
    for place, (row, (shown, images)) in enumerate(zip(rows, counts, strict=True)):
        given = {"voxel_values": voxels[start : start + shown], "question_ids": questions[start : start + shown]}
        given |= {"pixel_values": pixels} if images else {}
        alone = model(input_ids=row, **(given if shown else {}))
        torch.testing.assert_close(together.logits[place][mask[place].bool()], alone.logits[0], rtol=1e-3, atol=1e-3)
        scores += [alone.slice_scores] if shown else []
        start += shown
    torch.testing.assert_close(together.slice_scores, torch.cat(scores), rtol=1e-4, atol=1e-5)


def test_a_language_models_tied_weights_stay_tied_and_its_vocabulary_may_grow(tmp_path):
    model = build(language_config={"model_type": "llama", **LANGUAGE, "tie_word_embeddings": True})
    model.save_pretrained(tmp_path)
    model = Med2E3ForConditionalGeneration.from_pretrained(tmp_path)
    model.resize_token_embeddings(VOLUME + 10)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.language_config.vocab_size == VOLUME + 10
    assert model(**batch()).logits.shape[-1] == VOLUME + 10


def test_a_batch_of_text_alone_needs_nothing_visual():
    output = build()(input_ids=text(4, 5, 6), labels=text(4, 5, 6))
    assert output.loss.isfinite()
    assert output.slice_scores is None


@torch.no_grad()
def test_an_image_is_one_slice():
    model = build()
    image = torch.rand(2, 1, 16, 16)
    tower = model.encode_towers(pixel_values=image)
    embeds, scores = model.embed(text(4, "i", "i", 5), model.connect(tower), image_index=torch.tensor([1, 0]))
    assert scores is None
    expected = model.connector2d(tower.images)
    assert torch.equal(embeds[0, 1:9], torch.cat([expected[1], expected[0]]))


def count_calls(model):
    calls = {"vision3d": 0, "vision2d": 0, "question_encoder": 0}
    for name in calls:
        part = getattr(model, name)
        part.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    return calls


@torch.no_grad()
def test_several_questions_about_a_volume_encode_it_once():
    model, given = build(), batch(3)
    index = torch.tensor([1, 1, 0])
    repeated = model(**{**given, "voxel_values": volumes(2)[index]})
    calls, seen = count_calls(model), []
    model.vision3d.register_forward_pre_hook(lambda _, values: seen.append(len(values[0])))
    shared = model(**{**given, "voxel_values": volumes(2), "volume_index": index})
    assert calls == {"vision3d": 1, "vision2d": 1, "question_encoder": 1}
    assert seen == [2]
    torch.testing.assert_close(shared.logits, repeated.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shared.slice_scores, repeated.slice_scores)


@torch.no_grad()
def test_kept_features_stand_in_for_the_volumes_and_run_no_tower():
    model, given = build(), batch()
    expected = model(**given)
    tower = model.encode_towers(given.pop("voxel_values"))
    single = [
        replace(tower, tokens_3d=tower.tokens_3d[k : k + 1], tokens_2d=tower.tokens_2d[k : k + 1]) for k in (0, 1)
    ]
    calls = count_calls(model)
    output = model(**given, tower=TowerFeatures.cat(single))
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(model(**given, visual=model.connect(tower)).logits, expected.logits)
    assert calls == {"vision3d": 0, "vision2d": 0, "question_encoder": 2}


@torch.no_grad()
def test_slices_in_chunks_give_the_same_and_bound_what_the_tower_sees():
    given, seen = batch(), []
    whole, chunked = build(), build(slice_chunk=3)
    chunked.vision2d.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    torch.testing.assert_close(chunked(**given).logits, whole(**given).logits, rtol=1e-4, atol=1e-4)
    assert seen == [3, 3, 3, 3, 3, 1]
    assert Med2E3Config(**PARTS).slice_chunk > 0, "memory is bounded unless somebody asks otherwise"


@pytest.mark.parametrize("size", [(2, 16, 16), (6, 8, 24), (40, 16, 16)])
@torch.no_grad()
def test_volumes_of_any_size_are_scored_slice_by_slice(size):
    model = build()
    tokens = model.config.volume_tokens(size)
    ids = torch.tensor([[3, *[VOLUME] * tokens, 4]])
    output = model(input_ids=ids, voxel_values=torch.rand(1, 1, *size), question_ids=torch.tensor([[1, 2]]))
    assert output.slice_scores.shape == (1, size[0])
    assert model.config.slice_count(size) == size[0]


@pytest.mark.parametrize(
    ("ids", "given", "message"),
    [
        (("v", 5, "v"), {"voxel_values": 1}, "2 <volume> placeholders in the text of 8 tokens each: but 1 volumes"),
        ((5,), {"voxel_values": 2}, "0 <volume> placeholders in the text of 8 tokens each: but 2 volumes"),
        (("v", VOLUME, 5), {"voxel_values": 1}, r"1\.125 <volume> placeholders"),
        (("v",), {}, "8 <volume> placeholders in the text .counted in tokens.: but 0 volumes to show"),
        (("i", "i"), {"pixel_values": 1}, "2 <image> placeholders in the text of 4 tokens each: but 1 images to show"),
        (("v", "v"), {"voxel_values": 2, "index": [0, 0, 1]}, "2 questions: guide 3 volume placeholders"),
        (("v", "v"), {"voxel_values": 2, "index": [0, 2]}, r"volume_index \[0, 2\]: names more than the 2 volumes"),
    ],
)
def test_placeholders_that_do_not_match_what_is_shown_are_refused_with_both_counts(ids, given, message):
    count = given.get("voxel_values", 0)
    arguments = {"input_ids": text(*ids)}
    if count:
        arguments |= {"voxel_values": volumes(count), "question_ids": torch.ones(count, 3, dtype=torch.long)}
    if "pixel_values" in given:
        arguments["pixel_values"] = torch.rand(given["pixel_values"], 1, 16, 16)
    if "index" in given:
        arguments["volume_index"] = torch.tensor(given["index"])
    with pytest.raises(ContractError, match=message):
        build()(**arguments)


def test_a_missing_question_is_refused():
    given = batch()
    del given["question_ids"], given["question_mask"]
    with pytest.raises(ContractError, match=r"by the question, and there is none\. Give question_ids"):
        build()(**given)


def test_images_are_refused_where_no_tower_sees_them():
    with pytest.raises(ContractError, match="images: this model has no 2D encoder"):
        build(fusion="3d_only").encode_towers(pixel_values=torch.rand(1, 1, 16, 16))


@torch.no_grad()
def assert_greedy_is_a_loop(model, given, steps=6):
    prompt = {name: value for name, value in given.items() if name != "labels"}
    more = {"max_new_tokens": steps, "return_dict_in_generate": True, "output_logits": True}
    generated = model.generate(**prompt, do_sample=False, **more)
    ids, logits = prompt["input_ids"], []
    for _ in range(steps):
        given = {**prompt, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits.append(model(**given).logits[:, -1])
        ids = torch.cat([ids, logits[-1].argmax(dim=-1, keepdim=True)], dim=1)
    start = prompt["input_ids"].shape[1]
    assert torch.equal(generated.sequences[:, start:], ids[:, start:])
    torch.testing.assert_close(torch.stack(generated.logits), torch.stack(logits), rtol=1e-3, atol=1e-3)


@each_option
def test_greedy_generation_equals_a_loop_without_a_cache(options):
    model = build(**options)
    given = arguments(model)
    given.pop("slice_targets", None)
    assert_greedy_is_a_loop(model, given)


@torch.no_grad()
def test_volumes_are_looked_at_once_while_generating():
    model, given = build(), batch()
    calls = count_calls(model)
    model.generate(**given, max_new_tokens=5, do_sample=False)
    assert calls == {"vision3d": 1, "vision2d": 1, "question_encoder": 1}


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
@torch.no_grad()
def test_beams_of_a_mixed_batch_equal_the_beams_of_its_samples(options):
    model = build()
    rows, counts, voxels, pixels, questions = mixed_rows()
    ids, mask = pad(rows, "left")
    together = model.generate(
        input_ids=ids,
        attention_mask=mask,
        voxel_values=voxels,
        pixel_values=pixels,
        question_ids=questions,
        max_new_tokens=4,
        do_sample=False,
        **options,
    )
    returned, start = options.get("num_return_sequences", 1), 0
    for place, (row, (shown, images)) in enumerate(zip(rows, counts, strict=True)):
        given = {"voxel_values": voxels[start : start + shown], "question_ids": questions[start : start + shown]}
        given |= {"pixel_values": pixels} if images else {}
        alone = model.generate(row, max_new_tokens=4, do_sample=False, **options, **(given if shown else {}))
        own = together[place * returned : (place + 1) * returned]
        assert torch.equal(own[:, -4:], alone[:, -4:])
        start += shown


@torch.no_grad()
def test_sampling_repeats_with_its_seed_and_takes_no_temperature_from_the_scores():
    model, given = build(score_temperature=7), batch()
    assert model.generation_config.temperature in (None, 1.0)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(model.generate(**given, max_new_tokens=12, do_sample=True, temperature=3.0))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


class Letters:
    """A tokenizer for the streamer: one letter for an id."""

    def decode(self, ids, **_):
        return "".join(chr(ord("0") + int(n)) for n in ids)


@torch.no_grad()
def test_a_streamed_answer_is_the_answer(capsys):
    model, given = build(), batch(1)
    answer = model.generate(**given, max_new_tokens=5, do_sample=False)
    streamer = TextStreamer(Letters(), skip_prompt=True)
    model.generate(**given, max_new_tokens=5, do_sample=False, streamer=streamer)
    assert capsys.readouterr().out.strip() == Letters().decode(answer[0, -5:])


@torch.no_grad()
def test_a_prefix_that_ends_with_the_3d_tokens_is_shared_by_questions():
    model, voxels = build(), volumes(1)
    visual = model.connect(model.encode_towers(voxels))
    for question, rest in (([[2, 3]], (6, 7)), ([[4]], (8, 9, 10))):
        ids = text(5, "v", *rest)
        feature = model.encode_question(torch.tensor(question))
        embeds, _ = model.embed(ids, visual, None, feature)
        prefix = model(inputs_embeds=embeds[:, :5], use_cache=True).past_key_values
        follow = model(
            inputs_embeds=embeds[:, 5:], past_key_values=prefix, attention_mask=torch.ones_like(ids), use_cache=True
        )
        whole = model(input_ids=ids, voxel_values=voxels, question_ids=torch.tensor(question))
        torch.testing.assert_close(follow.logits, whole.logits[:, 5:], rtol=1e-3, atol=1e-3)
        again = model(inputs_embeds=embeds[:, :5], use_cache=True).past_key_values
        cached = model.generate(ids, inputs_embeds=embeds, past_key_values=again, max_new_tokens=4, do_sample=False)
        plain = model.generate(
            ids, voxel_values=voxels, question_ids=torch.tensor(question), max_new_tokens=4, do_sample=False
        )
        assert torch.equal(cached[:, -4:], plain[:, -4:])


@torch.no_grad()
def test_logits_can_be_kept_for_the_last_tokens_only():
    model, given = build(), batch()
    del given["labels"]
    assert torch.equal(model(**given, logits_to_keep=2).logits, model(**given).logits[:, -2:])


def test_a_summed_step_over_micro_batches_has_the_gradient_of_the_whole_batch():
    model, given = build(slice_loss_weight=0.5, score_dropout=0), batch(2)
    given["slice_targets"] = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])
    whole = model(**given)
    items = (given["labels"] != -100).sum()
    parts = [model(**{k: v[n : n + 1] for k, v in given.items()}, num_items_in_batch=items) for n in (0, 1)]
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    torch.testing.assert_close(whole.loss, whole.losses["answer"] + 0.5 * whole.losses["slice"])


def test_the_slice_loss_moves_the_scores_to_the_true_slices():
    model, given = build(slice_loss_weight=1), batch()
    given["slice_targets"] = torch.nn.functional.one_hot(torch.tensor([2, 5]), SLICES)
    model.freeze(vision3d=True, vision2d=True, language_model=True)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(30):
        loss = model.train()(**given).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.eval()(**given).slice_scores.argmax(dim=1).tolist() == [2, 5]


def test_frozen_parts_learn_nothing_stay_in_evaluation_mode_and_the_rest_learns():
    model = build().train()
    model.freeze(vision3d=True, question_encoder=True)
    model.train()
    model(**batch()).loss.backward()
    for part in (model.vision3d, model.question_encoder):
        assert not any(module.training for module in part.modules())
        assert all(p.grad is None for p in part.parameters())
    assert model.vision2d.training
    assert model.vision2d.embeddings.patch_embedding.weight.grad.any()
    model.freeze(vision3d=False)
    assert model.vision3d.training
    assert not model.vision3d.encoder.norm.weight.requires_grad, "what no feature depends on stays frozen"
    with pytest.raises(ContractError, match=r"freeze\(vision=...\): no such part. Did you mean 'vision"):
        model.freeze(vision=True)
    build(fusion="3d_only").freeze(vision2d=True)


def test_activation_checkpointing_changes_no_gradient():
    model, given = build().train(), batch()
    model.freeze(vision3d=True)
    gradients = []
    for _ in (0, 1):
        model.zero_grad()
        torch.manual_seed(0)
        model(**given).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_bf16_follows_float32():
    model, given = build(), batch()
    exact = model(**given).slice_scores
    half = model.to(torch.bfloat16)(**given)
    assert half.logits.dtype == torch.bfloat16
    assert half.slice_scores.dtype == torch.float32
    assert half.logits.isfinite().all()
    assert (half.slice_scores - exact).abs().max() < 0.1
    model.generate(**given, max_new_tokens=2, do_sample=False)


@each_option
def test_mixed_precision_trains(options):
    model = build(**options).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**arguments(model))
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if output.slice_scores is not None:
        torch.testing.assert_close(output.slice_scores.float().sum(dim=1), torch.ones(2), rtol=0, atol=1e-2)


@torch.no_grad()
def test_float64_stays_float64():
    model, given = build().double(), batch()
    output = model(**given)
    assert output.logits.dtype == output.slice_scores.dtype == torch.float64
    assert (output.logits - build()(**given).logits).abs().max() < 1e-3


def test_lora_trains_the_language_model_only(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    model, given = build(), batch()
    targets = r"language_model\..*\.(q_proj|v_proj|down_proj)"
    wrapped = get_peft_model(
        model, LoraConfig(r=2, target_modules=targets, modules_to_save=["connector2d"], task_type="CAUSAL_LM")
    ).train()
    wrapped(**given).loss.backward()
    learned = {name for name, p in wrapped.named_parameters() if p.grad is not None}
    assert learned
    assert all("lora_" in name or "connector2d" in name for name in learned)
    assert not model.vision2d.training
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(**given).loss.backward()
        optimizer.step()
    wrapped.eval().save_pretrained(tmp_path)
    answer = wrapped.generate(**given, max_new_tokens=4, do_sample=False)
    again = PeftModel.from_pretrained(build(), tmp_path).eval()
    assert torch.equal(again.generate(**given, max_new_tokens=4, do_sample=False), answer)
    torch.testing.assert_close(again.merge_and_unload()(**given).logits, wrapped(**given).logits, rtol=1e-3, atol=1e-3)


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, place):
        return place


def collate(places):
    given = batch(2)
    return {**given, "voxel_values": given["voxel_values"] + places[0] / 10}


def test_the_trainer_trains_and_evaluates_it(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = build()
    before = model.connector3d.fc1.weight.clone()
    settings = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
        save_strategy="no",
        disable_tqdm=True,
        learning_rate=1e-2,
    )
    trainer = Trainer(model, settings, train_dataset=Samples(), eval_dataset=Samples(), data_collator=collate)
    trainer.train()
    assert not torch.equal(model.connector3d.fc1.weight, before)
    assert trainer.evaluate()["eval_loss"] > 0


def test_parts_are_initialised_by_their_own_rules_and_maps_by_ours():
    torch.manual_seed(0)
    wide = {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8, **WIDTHS, "hidden_size": 64}
    language = {"model_type": "llama", **LANGUAGE, "hidden_size": 64, "initializer_range": 0.5}
    model = Med2E3ForConditionalGeneration(
        Med2E3Config(**{**PARTS, "vision2d_config": wide, "language_config": language, "initializer_range": 0.07})
    )
    assert model.connector2d.fc1.weight.std().item() == pytest.approx(0.07, rel=0.1)
    assert model.question_projection.weight.std().item() == pytest.approx(0.07, rel=0.1)
    assert not model.connector2d.fc1.bias.any()
    assert model.language_model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert model.vision3d.patch_embed.weight.std().item() == pytest.approx(0.02, rel=0.2)
    torch.manual_seed(0)
    alone = AutoModel.from_config(model.config.vision3d_config)
    assert torch.equal(alone.patch_embed.weight, model.vision3d.patch_embed.weight)


def test_the_published_sizes_are_the_released_models():
    with torch.device("meta"):
        model = Med2E3ForConditionalGeneration(Med2E3Config.preset("released"))
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {
        "vision3d": 87_389_184,
        "vision2d": 315_956_224,
        "connector3d": 11_802_624,
        "connector2d": 12_589_056,
        "question_encoder": 109_482_240,
        "question_projection": 2_362_368,
        "scorer": 0,
        "language_model": 3_821_079_552,
    }
    config = model.config
    assert (config.volume_tokens((32, 256, 256)), config.image_tokens((256, 256))) == (512, 256)
    assert (config.score_temperature, config.score_dropout, config.vision3d_norm, config.vision2d_norm) == (
        5.0,
        0.1,
        False,
        False,
    )
    assert config.num_hidden_layers == 32


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_other_keys(name):
    assert Med2E3Config.preset(name, fusion="3d_only").fusion == "3d_only"


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ContractError, match=r"preset 'tinny': no such sizes\. Did you mean 'tiny'"):
        Med2E3Config.preset("tinny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "Med2E3Config.temprature=....: no such key. Did you mean 'score_temperature'"),
        ({"score_temperature": 0}, "score_temperature 0.0: is not above 0"),
        ({"score_top_k": 0}, "score_top_k 0: is not at least 1"),
        ({"score_dropout": 1}, "score_dropout 1.0: is not from 0 to below 1"),
        ({"slice_chunk": -1}, "slice_chunk -1: is not 0"),
        ({"pool_size": (2, 2)}, "pool_size .2, 2.: is not three"),
        ({"slice_loss_weight": -1}, "slice_loss_weight -1.0: is not 0 or more"),
        ({"slice_loss_weight": 1, "slice_weights": "uniform"}, "has no scores to act on"),
        ({"slice_loss_weight": 1, "fusion": "3d_only"}, "has no scores to act on with fusion '3d_only'"),
        ({"image_token_id": VOLUME}, "volume_token_id 64: is the image_token_id as well"),
        ({"language_config": {"model_type": "nonesuch"}}, "language_config of type 'nonesuch': no such model"),
        ({"language_config": "llama"}, "language_config 'llama': is not a config"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ContractError, match=message):
        Med2E3Config(**{**PARTS, **options})


@pytest.mark.parametrize("part", ["vision3d_config", "vision2d_config", "language_config", "question_config"])
def test_a_model_that_lacks_a_part_is_refused(part):
    with pytest.raises(ContractError, match=f"Med2E3Config without {part}: fusion 'both'"):
        Med2E3ForConditionalGeneration(Med2E3Config(**{**PARTS, part: None}))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"fusion": "3d_only"}, "vision2d_config"),
        ({"fusion": "3d_only"}, "question_config"),
        ({"fusion": "2d_only", "slice_weights": "uniform"}, "vision3d_config"),
        ({"fusion": "2d_only", "slice_weights": "tgis_2d_only"}, "vision3d_config"),
        ({"question_feature": "llm_mean"}, "question_config"),
        ({"slice_weights": "learned"}, "question_config"),
    ],
)
def test_a_part_that_no_option_needs_may_be_left_out(options, part):
    model = Med2E3ForConditionalGeneration(Med2E3Config(**{**PARTS, **options, part: None}))
    assert getattr(model, part.removesuffix("_config").replace("question", "question_encoder")) is None


def test_uni4eye_features_are_normed_and_the_others_are_not_unless_the_config_says_so():
    config = Med2E3Config(**{**PARTS, "vision3d_config": UNI4EYE})
    assert (config.vision3d_norm, config.vision2d_norm) == (True, False)
    config = Med2E3Config(**{**PARTS, "vision3d_config": UNI4EYE, "vision3d_norm": False, "vision2d_norm": True})
    assert (config.vision3d_norm, config.vision2d_norm) == (False, True)


def test_generation_takes_transformers_own_arguments():
    model, given = build(), batch()
    processors = LogitsProcessorList([lambda ids, logits: logits.index_fill(1, torch.tensor([7]), 1e4)])
    answer = model.generate(**given, max_new_tokens=2, do_sample=False, logits_processor=processors)
    assert answer[:, -2:].tolist() == [[7, 7]] * 2
