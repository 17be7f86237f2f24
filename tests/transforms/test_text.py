import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from crossdim.datasets.dialogue import Turn
from crossdim.errors import ContractError
from crossdim.training.language_models import question_tokenizer, train_tokenizer
from crossdim.transforms.contract import PreprocessingContract, VolumeContract
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.prompts import SYSTEM
from crossdim.transforms.text import DialogueSample, Med2E3Processor, slice_targets

CONTRACT = PreprocessingContract(volume=VolumeContract(size=(4, 8, 8)), source="test")
WORDS = [
    "Is there a nodule in the left lung?",
    "yes no",
    "Where is it?",
    "In the upper lobe.",
    SYSTEM,
    "USER: ASSISTANT:",
]
TOKENIZER = train_tokenizer(WORDS, 400)
NODULE = Turn(question="Is there a nodule?", answer="yes")
PLACE = Turn(question="Where is it?", answer="In the upper lobe.")


def processor(**settings) -> Med2E3Processor:
    sizes = {"volume_tokens": 6, "image_tokens": 2, "volume_token_id": 1000, "image_token_id": 1001, "max_length": 400}
    return Med2E3Processor(CONTRACT, settings.pop("tokenizer", TOKENIZER), **(sizes | settings))


def shown(ids, tokenizer=TOKENIZER) -> str:
    """Return the text, a placeholder as V or I, so that every token is seen."""
    words, texts = [], []
    for token in [*map(int, ids), 1000]:
        if token >= 1000 and words:
            texts.append(tokenizer.decode(words))
            words = []
        if token < 1000:
            words.append(token)
        else:
            texts.append("V" if token == 1000 else "I")
    return "".join(texts)[:-1]


def learned(encoded) -> str:
    return TOKENIZER.decode([token for token in encoded.labels.tolist() if token != -100])


def test_the_vicuna_prompt_is_the_authors():
    encoded = processor().encode([NODULE, PLACE])
    assert shown(encoded.input_ids) == (
        f"{SYSTEM} USER: VVVVVV\nIs there a nodule? ASSISTANT: yes<|end|>"
        "USER: Where is it? ASSISTANT: In the upper lobe.<|end|>"
    )


def test_the_caption_prompt_is_the_volume_and_the_answer_without_an_end():
    encoded = processor(prompt="caption").encode([PLACE])
    assert shown(encoded.input_ids) == "VVVVVVIn the upper lobe."
    assert learned(encoded) == "In the upper lobe."
    assert shown(processor(prompt="caption").encode([PLACE], generate=True).input_ids) == "VVVVVV"


def test_the_chat_prompt_is_the_tokenizers_own():
    encoded = processor(prompt="chat").encode([NODULE, PLACE])
    assert shown(encoded.input_ids) == (
        "<|user|>VVVVVV\nIs there a nodule?<|assistant|>yes<|end|>"
        "<|user|>Where is it?<|assistant|>In the upper lobe.<|end|>"
    )


@pytest.mark.parametrize("prompt", ["vicuna", "chat"])
def test_the_loss_falls_on_the_answers_of_all_turns_and_on_their_ends_only(prompt):
    encoded = processor(prompt=prompt).encode([NODULE, PLACE])
    space = " " if prompt == "vicuna" else ""
    assert learned(encoded) == f"{space}yes<|end|>{space}In the upper lobe.<|end|>"
    said = [shown(encoded.input_ids[start:stop]) for start, stop in encoded.answer_spans]
    assert said == [f"{space}yes<|end|>", f"{space}In the upper lobe.<|end|>"]
    kept = encoded.labels != -100
    assert torch.equal(encoded.labels[kept], encoded.input_ids[kept])


@pytest.mark.parametrize("prompt", ["vicuna", "chat", "caption"])
def test_what_is_generated_on_is_the_start_of_what_was_trained_on(prompt):
    ours = processor(prompt=prompt)
    turns = [NODULE, PLACE][: 1 if prompt == "caption" else 2]
    whole, asked = ours.encode(turns), ours.encode(turns, generate=True)
    assert torch.equal(asked.input_ids, whole.input_ids[: whole.answer_spans[-1][0]])
    assert torch.equal(asked.question_ids, whole.question_ids)


@pytest.mark.parametrize("prompt", ["vicuna", "chat"])
def test_up_to_the_volume_every_question_begins_alike(prompt):
    ours = processor(prompt=prompt)
    one, other = (ours.encode([turn], generate=True).input_ids for turn in (NODULE, PLACE))
    end = int((one == 1000).nonzero().max()) + 1
    assert torch.equal(one[:end], other[:end])


def test_an_unknown_answer_is_not_learned():
    encoded = processor().encode([NODULE.model_copy(update={"answer": ""}), PLACE])
    assert learned(encoded) == " In the upper lobe.<|end|>"


@given(st.text(max_size=30).filter(lambda text: "<" not in text), st.text(min_size=1, max_size=30))
def test_any_text_comes_back(answer, question):
    turn = Turn(question=question.replace("<", "(") or "?", answer=answer)
    encoded = processor().encode([turn])
    assert learned(encoded) == (f" {answer}<|end|>" if answer else "")
    assert f"VVVVVV\n{turn.question} ASSISTANT:" in shown(encoded.input_ids)


def test_a_volume_stands_where_the_text_says():
    turn = Turn(question="Compare <volume> with <volume>!", answer="same")
    assert "USER: Compare VVVVVV with VVVVVV! A" in shown(processor().encode([turn], volumes=2).input_ids)
    assert "USER: VVVVVV\nVVVVVV\nIIWhere" in shown(
        processor().encode([PLACE.model_copy(update={"question": "<image>Where?"})], volumes=2, images=1).input_ids
    )


@pytest.mark.parametrize(
    ("question", "volumes", "images", "message"),
    [
        ("<volume> What?", 2, 0, "holds 1 <volume> placeholders for 2 volumes"),
        ("<volume><volume><volume>", 1, 0, "holds 3 <volume> placeholders for 1 volumes"),
        ("<volume> What?", 0, 0, "holds 1 <volume> placeholders for 0 volumes"),
        ("<image> What?", 1, 2, "holds 1 <image> placeholders for 2 images"),
    ],
)
def test_a_wrong_number_of_placeholders_names_both_counts(question, volumes, images, message):
    with pytest.raises(ContractError, match=f"{message}.*Write <.*> once for each, or leave it out"):
        processor().encode([Turn(question=question, answer="this")], volumes=volumes, images=images)


def test_an_answer_that_holds_a_placeholder_is_refused():
    with pytest.raises(ContractError, match=r"answer: holds a placeholder"):
        processor().encode([NODULE.model_copy(update={"answer": "see <volume>"})])


def test_text_alone_has_no_placeholder_and_no_question_for_the_scores():
    ours = processor(prompt="chat")
    encoded = ours.encode([NODULE], volumes=0)
    assert shown(encoded.input_ids) == "<|user|>Is there a nodule?<|assistant|>yes<|end|>"
    batch = ours.collate([DialogueSample((), (encoded,))])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_a_dialogue_that_is_too_long_is_refused_with_the_numbers_and_nothing_is_cut():
    ours = processor(prompt="chat", max_length=30)
    long = Turn(question="Where is it?", answer="In the upper lobe. " * 9)
    count = len(processor(prompt="chat").encode([long]).input_ids)
    with pytest.raises(
        ContractError, match=rf"context overflow: .* has {count} tokens \(6 of 1 volumes.* takes 30\. Short"
    ):
        ours.encode([long])
    assert len(ours.encode([NODULE]).input_ids) <= 30


def test_a_question_that_is_too_long_for_the_scores_is_refused():
    with pytest.raises(
        ContractError, match=r"the questions have \d+ tokens together, and the question encoder reads 3"
    ):
        processor(question_max_length=3).encode([NODULE])


def test_the_scores_are_guided_by_the_questions_of_all_turns_without_markers():
    turn = NODULE.model_copy(update={"question": "<volume>\nIs there a nodule?"})
    assert TOKENIZER.decode(processor().encode([turn, PLACE]).question_ids) == "Is there a nodule? Where is it?"
    own = processor(question_tokenizer=question_tokenizer(TOKENIZER))
    for _ in range(2):  # the second time from memory
        assert TOKENIZER.decode(own.encode([turn, PLACE]).question_ids) == "<|start|>Is there a nodule? Where is it?"


def test_listed_choices_are_the_published_format():
    turn = Turn(question="Which plane?", answer="axial", choices=("coronal", "axial"), form="closed")
    encoded = processor(choices="letters").encode([turn])
    assert "Which plane? Choices: A. coronal B. axial ASSISTANT: B. axial<|end|>" in shown(encoded.input_ids)
    assert "Which plane? ASSISTANT: axial<|end|>" in shown(processor().encode([turn]).input_ids)


def sample(ours, *dialogues, volumes=1, targets=()) -> DialogueSample:
    values = tuple(torch.full((1, 4, 8, 8), float(place)) for place in range(volumes))
    return DialogueSample(values, tuple(ours.encode(turns, volumes=volumes) for turns in dialogues), targets)


def test_several_questions_share_a_volume_and_each_placeholder_knows_its_own():
    ours = processor()
    alone = DialogueSample((), (ours.encode([NODULE], volumes=0),))
    batch = ours.collate([sample(ours, [NODULE], [PLACE]), alone, sample(ours, [NODULE], [PLACE], volumes=2)])
    assert batch["voxel_values"].shape == (3, 1, 4, 8, 8)
    assert batch["volume_index"].tolist() == [0, 0, 1, 2, 1, 2]
    assert batch["question_ids"].shape[0] == batch["question_mask"].shape[0] == 6
    assert len(batch["input_ids"]) == 5
    assert int((batch["input_ids"] == 1000).sum()) == 6 * 6


@pytest.mark.parametrize("side", ["left", "right"])
def test_either_side_is_padded_and_the_text_is_the_same(side):
    ours = processor()
    samples = [sample(ours, [NODULE], [NODULE, PLACE])]
    batch = ours.collate(samples, side)
    for row, encoded in enumerate(samples[0].encoded):
        real = batch["attention_mask"][row] == 1
        assert torch.equal(batch["input_ids"][row][real], encoded.input_ids)
        assert torch.equal(batch["labels"][row][real], encoded.labels)
        assert bool((batch["labels"][row][~real] == -100).all())
    shorter = batch["attention_mask"][0]
    assert bool(shorter[-1 if side == "left" else 0] == 1)
    assert bool(shorter[0 if side == "left" else -1] == 0)


def test_images_have_values_places_and_placeholders_of_their_own():
    ours = processor()
    encoded = ours.encode([NODULE], volumes=0, images=1)
    batch = ours.collate([DialogueSample((torch.zeros(3, 8, 8),), (encoded, encoded))])
    assert batch["pixel_values"].shape == (1, 3, 8, 8)
    assert batch["image_index"].tolist() == [0, 0]
    assert "volume_index" not in batch
    assert "question_ids" not in batch
    assert "USER: II\nIs there" in shown(encoded.input_ids)


def test_slices_that_are_not_known_are_marked_as_such():
    ours = processor()
    found = torch.tensor([False, True, True, False])
    batch = ours.collate([sample(ours, [NODULE], [PLACE], targets=((found,), (None,)))])
    assert batch["slice_targets"][0].tolist() == [0, 1, 1, 0]
    assert bool(batch["slice_targets"][1].isnan().all())
    assert "slice_targets" not in ours.collate([sample(ours, [NODULE])])


def words_with_start(pieces: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer that adds a token at the start, as Llama's do; with pieces it puts a space before a text."""
    words = ["<s>", "</s>", "<unk>", *sorted({word for text in [*WORDS, "\n ▁ ▁? ?"] for word in text.split()})]
    known = [*words, *(f"▁{word}" for word in words[3:])]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(dict.fromkeys(known))}, "<unk>"))
    if pieces:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_a_tokenizer_that_opens_with_a_token_does_so_once():
    tokenizer = words_with_start(pieces=False)
    ours = processor(tokenizer=tokenizer)
    ids = ours.encode([NODULE, PLACE]).input_ids.tolist()
    assert ids[0] == 0
    assert ids.count(0) == 1
    assert processor(tokenizer=tokenizer, prompt="caption").encode([NODULE]).input_ids.tolist().count(0) == 0


def test_an_answer_is_tokenised_as_it_is_behind_the_question():
    tokenizer = words_with_start(pieces=True)
    encoded = processor(tokenizer=tokenizer).encode([PLACE])
    start, stop = encoded.answer_spans[0]
    whole = tokenizer("ASSISTANT: In the upper lobe.", add_special_tokens=False).input_ids
    assert encoded.input_ids[start : stop - 1].tolist() == whole[1:]


def test_a_chat_prompt_without_a_chat_template_is_refused():
    with pytest.raises(ContractError, match=r"prompt 'chat': needs a chat template, .* has none\. Use prompt=vicuna"):
        processor(tokenizer=words_with_start(pieces=False), prompt="chat")


def test_a_chat_template_that_rewrites_earlier_turns_is_refused():
    tokenizer = train_tokenizer(WORDS, 400)
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ContractError, match=r"chat template: rewrites earlier turns .* Use prompt=vicuna"):
        processor(tokenizer=tokenizer, prompt="chat").encode([NODULE])


def test_what_follows_the_end_of_an_answer_in_a_chat_template_is_not_learned():
    tokenizer = train_tokenizer(WORDS, 400)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|end|>\n")
    encoded = processor(tokenizer=tokenizer, prompt="chat").encode([NODULE, PLACE])
    assert learned(encoded) == "yes<|end|>In the upper lobe.<|end|>"
    assert "yes<|end|>\n<|user|>" in shown(encoded.input_ids)


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = train_tokenizer(WORDS, 400)
    tokenizer.eos_token = None
    with pytest.raises(ContractError, match=r"tokenizer: has no end-of-sequence token\. State one"):
        processor(tokenizer=tokenizer)
    with pytest.raises(ContractError, match=r"eos '</nothing>': is not a token of the tokenizer"):
        processor(eos="</nothing>")


def test_a_processor_comes_back_from_its_folder(tmp_path):
    ours = processor(prompt="chat", question_tokenizer=question_tokenizer(TOKENIZER), choices="letters")
    ours.save_pretrained(tmp_path)
    again = Med2E3Processor.from_pretrained(tmp_path)
    for name in ("prompt", "choices", "volume_tokens", "volume_token_id", "max_length", "eos", "contract"):
        assert getattr(again, name) == getattr(ours, name)
    one, other = (each.encode([NODULE, PLACE]) for each in (ours, again))
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.question_ids, other.question_ids)
    assert again.decode(one.input_ids) == ours.decode(one.input_ids)


def test_a_folder_without_a_processor_is_refused(tmp_path):
    with pytest.raises(ContractError, match=r"processor\.json: does not exist"):
        Med2E3Processor.from_pretrained(tmp_path)
    (tmp_path / "processor.json").write_text('{"prompt": "poem"}')
    with pytest.raises(ContractError, match=r"processor\.json: is not a processor"):
        Med2E3Processor.from_pretrained(tmp_path)


def test_placeholders_and_special_tokens_are_no_text():
    ours = processor()
    ids = ours.encode([NODULE]).input_ids
    assert ours.decode(ids).endswith("USER: \nIs there a nodule? ASSISTANT: yes")


def prepared(affine, valid=(0, 8)) -> Prepared:
    return Prepared(torch.zeros(1, 8, 4, 4), np.eye(4), np.array(affine, dtype=float), (valid, (0, 4), (0, 4)))


def box(x=(-99, 99), z=(-99, 99)):
    return tuple(map(float, (*x, -99, 99, *z)))


AXIAL = [[0, 0, -1, 0], [0, 1, 0, 0], [2, 0, 0, 10], [0, 0, 0, 1]]
"""Slices from the feet up, 2 mm apart, the first at z = 10."""


@pytest.mark.parametrize(
    ("low", "high", "slices"),
    [(13.5, 18.5, [2, 3, 4]), (0, 100, list(range(8))), (14.2, 14.4, [2]), (15.1, 15.2, [3]), (40, 50, [])],
)
def test_the_slices_that_are_asked_about_have_their_centre_in_the_extent(low, high, slices):
    found = slice_targets(prepared(AXIAL), box(z=(low, high)))
    assert found.nonzero().flatten().tolist() == slices


def test_the_slice_axis_decides_which_patient_axis_is_meant():
    sagittal = [[-3, 0, 0, 20], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    found = slice_targets(prepared(sagittal), box(x=(10, 15)))
    assert found.nonzero().flatten().tolist() == [2, 3]


def test_padding_is_never_asked_about():
    found = slice_targets(prepared(AXIAL, valid=(3, 8)), box(z=(0, 17)))
    assert found.nonzero().flatten().tolist() == [3]
