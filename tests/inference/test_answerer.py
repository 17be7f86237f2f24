"""Ask, choose, report: answers equal to the plain path, slices of the file, and nothing looked at twice."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import crossdim
from crossdim.datasets.dialogue import Turn
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.inference import Answerer, Decoding, load_answerer, load_predictor
from crossdim.inference.answerer import Question
from crossdim.inference.feature_cache import FeatureCache
from crossdim.readers import read
from crossdim.transforms.text import DialogueSample
from crossdim.transforms.volume import VolumeContract
from tests.inference.toys import CONTRACT, SIZE, answerer, encoder_calls, save_run, save_volume

ASKED = "Is the left kidney larger?"
CHOICES = ("yes", "no", "unclear")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "answers")


@pytest.fixture
def scan(tmp_path):
    return save_volume(tmp_path / "scan.nii.gz")


def plain_logits(model, processor, turns, tensors):
    """Logits of a whole dialogue in one forward, without any cache."""
    sample = DialogueSample(tuple(tensors), (processor.encode(turns, len(tensors)),))
    batch = processor.collate([sample])
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}), batch


def plain_choice(model, processor, question, choices, tensors):
    """Probability of each choice by the likelihood of the whole dialogue that ends with it."""
    found = []
    for choice in choices:
        turn = Turn(question=question, answer=choice, choices=tuple(choices), form="closed")
        output, batch = plain_logits(model, processor, [turn], tensors)
        labels = batch["labels"][0, 1:]
        chances = output.logits[0, :-1].log_softmax(dim=-1)
        found.append(sum(float(chances[place, token]) for place, token in enumerate(labels) if token >= 0))
    return torch.tensor(found).softmax(dim=0), output


def test_loading_gives_what_the_folder_holds(run):
    assert isinstance(crossdim.load(run, device="cpu"), Answerer)


@pytest.mark.parametrize("changes", [{}, {"fusion": "3d_only"}, {"fusion": "2d_only"}, {"slice_weights": "uniform"}])
def test_choices_have_the_probability_of_the_plain_path(tmp_path, scan, changes):
    model = answerer(save_run(tmp_path / "run", **changes))
    tensor = CONTRACT.prepare(read(scan)).tensor
    expected, output = plain_choice(model.model, model.processor, ASKED, CHOICES, [tensor])
    answer = model.ask(scan, ASKED, CHOICES)
    assert [answer.probabilities[choice] for choice in CHOICES] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)
    assert list(answer.probabilities.values()) == sorted(answer.probabilities.values(), reverse=True)
    assert answer.text == next(iter(answer.probabilities))
    assert (answer.tokens, answer.complete, answer.paths) == (0, True, (scan,))
    if output.slice_scores is None:
        assert answer.slices == ()
    else:
        scores = [each.score for each in answer.slices[0]]
        assert scores == pytest.approx(output.slice_scores[0].tolist(), rel=1e-4, abs=1e-6)


def test_a_written_answer_is_the_plain_greedy_one(run, scan):
    model = answerer(run)
    tensor = CONTRACT.prepare(read(scan)).tensor
    answer = model.ask(scan, ASKED, max_new_tokens=12)
    ids = model.processor.encode([Turn(question=ASKED)], 1, generate=True)
    batch = model.processor.collate([DialogueSample((tensor,), (ids,))])
    batch.pop("labels")
    found = batch["input_ids"].clone()
    for _ in range(12):  # one whole forward for each token
        with torch.no_grad():
            logits = model.model(**batch | {"input_ids": found, "attention_mask": torch.ones_like(found)}).logits
        token = logits[0, -1].argmax()
        found = torch.cat([found, token[None, None]], dim=1)
        if token == model.processor.eos_token_id:
            break
    said = found[0, batch["input_ids"].shape[1] :].tolist()
    ended = said[-1] == model.processor.eos_token_id
    assert answer.text == model.processor.decode(said)
    assert answer.tokens == len(said) - ended
    assert answer.complete == ended


def test_further_questions_look_at_nothing_and_answer_as_if_they_were_the_first(run, scan):
    model = answerer(run)
    calls = encoder_calls(model.model)
    questions = [ASKED, "Describe the findings in this scan.", "no"]
    together = [model.ask(scan, question, CHOICES) for question in questions]
    assert sorted(set(calls)) == ["vision2d", "vision3d"]
    assert len(calls) == 2
    for question, answer in zip(questions, together, strict=True):
        alone = answerer(run).ask(scan, question, CHOICES)
        assert answer.probabilities == pytest.approx(alone.probabilities, rel=1e-3, abs=1e-5)
        assert answer.slices == alone.slices
    written = model.ask(scan, ASKED, max_new_tokens=8)
    assert written == answerer(run).ask(scan, ASKED, max_new_tokens=8)
    assert len(calls) == 2


def test_the_kept_prefix_is_never_changed(run, scan):
    model = answerer(run)
    model.ask(scan, ASKED, CHOICES)
    (kept,) = model._shared.values()
    before = copy.deepcopy(kept)
    model.ask(scan, "no", CHOICES)
    model.ask(scan, ASKED, max_new_tokens=5)
    assert len(model._shared) == 1
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(kept.layers, before.layers, strict=True))
    assert kept.get_seq_length() == before.get_seq_length()


def test_the_prefix_is_read_once_and_ends_behind_the_3d_tokens(run, scan):
    model = answerer(run)
    lengths = []
    model.model.language_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    model.ask(scan, ASKED, ("yes", "no"))
    prompt = len(model.processor.encode([Turn(question=ASKED)], 1, generate=True).input_ids)
    assert lengths[0] + lengths[1] == prompt
    del lengths[:]
    model.ask(scan, ASKED, ("yes", "no"))
    assert lengths[0] < prompt - 4 * 2 * 2
    assert len(lengths) <= 2


def test_features_on_disk_spare_the_towers_in_another_process(run, scan, tmp_path):
    first = answerer(run, cache=FeatureCache(tmp_path / "cache"))
    expected = first.ask(scan, ASKED, CHOICES)
    second = answerer(run, cache=FeatureCache(tmp_path / "cache"))
    calls = encoder_calls(second.model)
    assert second.ask(scan, ASKED, CHOICES) == expected
    assert calls == []


@pytest.mark.parametrize("changed", ["a byte", "the contract", "a weight", "the entry", "how a tower is used"])
def test_what_changes_the_features_is_looked_at_again(run, scan, tmp_path, changed):
    cache = FeatureCache(tmp_path / "cache")
    answerer(run, cache=cache).ask(scan, ASKED, CHOICES)
    changes = {}
    if changed == "a byte":
        save_volume(scan, seed=1)
    elif changed == "the entry":
        (entry,) = (tmp_path / "cache").iterdir()
        content = bytearray(entry.read_bytes())
        content[-1] ^= 1
        entry.write_bytes(content)
    elif changed == "a weight":
        changes = {"seed": 1}
    elif changed == "how a tower is used":
        changes = {"vision2d_layer": -2}
    elif changed == "the contract":
        contract = CONTRACT.model_dump() | {"volume": CONTRACT.volume.model_dump() | {"antialias": False}}
        changes = {"processing": {"contract": type(CONTRACT).model_validate_json(json.dumps(contract))}}
    other = answerer(save_run(tmp_path / "other", **changes) if changes else run, cache=cache)
    calls = encoder_calls(other.model)
    found = other.ask(scan, ASKED, CHOICES)
    assert sorted(calls) == ["vision2d", "vision3d"]
    del calls[:]
    assert other.ask(scan, ASKED, CHOICES) == found
    assert calls == []
    again = answerer(save_run(tmp_path / "other", **changes) if changes else run, cache=cache)
    assert again.ask(scan, ASKED, CHOICES) == found


def test_a_file_that_changes_between_two_questions_is_looked_at_again(run, scan):
    model = answerer(run)
    before = model.ask(scan, ASKED, CHOICES)
    save_volume(scan, seed=5)
    assert model.ask(scan, ASKED, CHOICES).probabilities != before.probabilities


def test_slices_carry_their_number_in_the_file_and_their_place_in_the_patient(run, tmp_path):
    scan = save_volume(tmp_path / "scan.nii.gz", shape=(20, 24, 48), spacing=(1.0, 1.0, 2.0))
    answer = answerer(run).ask(scan, ASKED, CHOICES)
    (slices,) = answer.slices
    assert len(slices) == 16
    assert sum(each.score for each in slices) == pytest.approx(1, abs=1e-5)
    assert [each.index for each in slices][:2] == [1, 4]  # 48 slices become 16, from the feet up
    assert {each.axis for each in slices} == {0}
    assert slices[1].position_mm[2] - slices[0].position_mm[2] == pytest.approx(6.0)


def test_slices_of_padding_have_no_score_and_no_number(tmp_path):
    keeps_spacing = VolumeContract(size=SIZE, fit="crop_pad", spacing_mm=(2.0, 1.0, 1.0))
    contract = CONTRACT.model_copy(update={"volume": keeps_spacing})
    scan = save_volume(tmp_path / "scan.nii.gz", shape=(20, 24, 10), spacing=(1.0, 1.0, 2.0))
    (slices,) = answerer(save_run(tmp_path / "run", processing={"contract": contract})).ask(scan, ASKED, CHOICES).slices
    assert [each.index for each in slices] == [None] * 3 + list(range(10)) + [None] * 3
    assert all((each.score == 0) == (each.index is None) for each in slices)


def test_several_volumes_are_asked_about_together(run, tmp_path):
    model = answerer(run)
    scans = [save_volume(tmp_path / f"{seed}.nii.gz", seed) for seed in range(2)]
    tensors = [CONTRACT.prepare(read(scan)).tensor for scan in scans]
    expected, output = plain_choice(model.model, model.processor, ASKED, CHOICES, tensors)
    answer = model.ask(scans, ASKED, CHOICES)
    assert [answer.probabilities[choice] for choice in CHOICES] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)
    assert len(answer.slices) == 2
    assert [each.score for each in answer.slices[1]] == pytest.approx(output.slice_scores[1].tolist(), rel=1e-4)
    assert answer.paths == tuple(scans)


def test_an_image_is_asked_about_and_has_no_slices(run, tmp_path):
    path = tmp_path / "photo.png"
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(path)
    model = answerer(run)
    answer = model.ask(path, ASKED, CHOICES)
    assert answer.slices == ()
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.probabilities != pytest.approx(model.ask(save_volume(tmp_path / "s.nii.gz"), ASKED, CHOICES))


def test_a_streamed_answer_comes_in_pieces_that_make_it_up(run, scan):
    model = answerer(run)
    pieces: list[str] = []
    answer = model.ask(scan, ASKED, max_new_tokens=20, stream=pieces.append)
    assert "".join(pieces).strip() == answer.text
    assert answer == model.ask(scan, ASKED, max_new_tokens=20)
    chosen: list[str] = []
    taken = model.ask(scan, ASKED, CHOICES, stream=chosen.append)
    assert chosen == [taken.text]


def test_answers_are_drawn_by_seed_and_followed_by_beams(run, scan):
    model = answerer(run)
    drawn = [model.ask(scan, ASKED, max_new_tokens=10, decoding=Decoding(temperature=2.0, seed=s)) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0].text != drawn[2].text
    pieces: list[str] = []
    beams = model.ask(scan, ASKED, max_new_tokens=6, decoding=Decoding(beams=3), stream=pieces.append)
    assert pieces == [beams.text]
    for wrong, said in (
        ({"temperature": 0.0}, "is not above 0"),
        ({"top_p": 1.5}, "at most 1"),
        ({"beams": 0}, "below"),
    ):
        with pytest.raises(RecipeError, match=said):
            Decoding(**wrong)


def test_an_answer_that_was_cut_says_so(run, scan):
    answer = answerer(run).ask(scan, ASKED, max_new_tokens=2)
    assert answer.complete is (answer.tokens < 2)


def test_a_report_may_fill_the_context(tmp_path, scan):
    model = answerer(save_run(tmp_path / "run", processing={"report_question": "Report!"}))
    report = model.report(scan)
    assert report.question == "Report!"
    prompt = len(model.processor.encode([Turn(question="Report!")], 1, generate=True).input_ids)
    assert report.complete or report.tokens == 512 - prompt


def test_a_question_can_go_on_from_earlier_answers(run, scan):
    model = answerer(run)
    first = model.ask(scan, ASKED, CHOICES)
    tensor = CONTRACT.prepare(read(scan)).tensor
    turns = [
        Turn(question=ASKED, answer=first.text, choices=CHOICES, form="closed"),
        Turn(question="Why?", answer="yes"),
    ]
    output, _ = plain_logits(model.model, model.processor, turns, [tensor])
    second = model.ask(scan, "Why?", history=[first], max_new_tokens=1)
    start = model.processor.encode(turns, 1).answer_spans[-1][0]
    assert second.text == model.processor.decode([int(output.logits[0, start - 1].argmax())])
    assert [each.score for each in second.slices[0]] == pytest.approx(output.slice_scores[0].tolist(), rel=1e-4)


def test_many_questions_are_answered_as_each_by_itself(run, tmp_path):
    scans = [save_volume(tmp_path / f"{seed}.nii.gz", seed) for seed in range(3)]
    turns = [
        Turn(question=ASKED, choices=CHOICES, form="closed"),
        Turn(question="Is it there?", choices=("yes", "no"), form="closed"),
        Turn(question="Describe the findings in this scan.", form="report"),
    ]
    questions = [Question(f"{scan}/{place}", ((scan,),), (turn,)) for place, turn in enumerate(turns) for scan in scans]
    questions.append(Question("both", ((scans[0],), (scans[1],)), (turns[0],)))
    questions.append(Question("later", ((scans[0],),), (turns[1].model_copy(update={"answer": "yes"}), turns[0])))
    questions.append(Question("text", (), (turns[0],)))
    model = answerer(run)
    calls = encoder_calls(model.model)
    told: list[tuple[int, int]] = []
    found = {
        each.question.id: each
        for each in model.answer_each(
            questions, batch=4, max_new_tokens=6, progress=lambda done, total: told.append((done, total))
        )
    }
    assert found.keys() == {question.id for question in questions}
    assert told[-1] == (len(questions), len(questions))
    assert len(calls) < 2 * len(questions)
    alone = answerer(run)
    for question in questions[:-2]:
        answer = found[question.id].answer
        expected = alone.ask(
            [files[0] for files in question.files], question.turns[-1].question, question.turns[-1].choices,
            **({} if question.turns[-1].choices else {"max_new_tokens": 6}),
        )  # fmt: skip
        assert answer.probabilities == pytest.approx(expected.probabilities, rel=1e-3, abs=1e-5)
        assert (answer.text, answer.complete, answer.paths) == (expected.text, expected.complete, expected.paths)
        scores = [[each.score for each in volume] for volume in answer.slices]
        assert scores == [
            pytest.approx([each.score for each in volume], rel=1e-3, abs=1e-6) for volume in expected.slices
        ]
    assert sum(found["text"].answer.probabilities.values()) == pytest.approx(1)
    assert found["later"].answer.probabilities != pytest.approx(found[f"{scans[0]}/0"].answer.probabilities)


LANGUAGE = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "language",
    [
        {"model_type": "phi3"},
        {"model_type": "qwen2", "tie_word_embeddings": True},
        {"model_type": "mistral", "sliding_window": 24},
        {"model_type": "gpt2", "vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024},
    ],
    ids=lambda language: language["model_type"],
)
def test_language_models_of_any_kind_give_the_plain_answer_alone_and_in_a_batch(tmp_path, scan, language):
    spoken = language if language["model_type"] == "gpt2" else LANGUAGE | language
    model = answerer(save_run(tmp_path / "run", language_config=spoken))
    tensor = CONTRACT.prepare(read(scan)).tensor
    asked = (ASKED, "Is it there, or is it not there?")
    turns = [Turn(question=question, choices=CHOICES, form="closed") for question in asked]
    questions = [Question(turn.question, ((scan,),), (turn,)) for turn in turns]
    together = {each.question.id: each.answer for each in model.answer_each(questions)}
    written = list(model.answer_each(questions, closed="write", max_new_tokens=5))
    for question, said in zip(asked, written, strict=True):
        expected, _ = plain_choice(model.model, model.processor, question, CHOICES, [tensor])
        alone = model.ask(scan, question, CHOICES)
        for found in (alone, together[question]):
            chances = [found.probabilities[choice] for choice in CHOICES]
            assert chances == pytest.approx(expected.tolist(), rel=2e-3, abs=1e-5)
        assert said.answer.text == model.ask(scan, question, max_new_tokens=5).text


def test_closed_questions_can_be_answered_in_writing(run, scan):
    turn = Turn(question=ASKED, choices=CHOICES, form="closed")
    (found,) = answerer(run).answer_each([Question("a", ((scan,),), (turn,))], closed="write", max_new_tokens=3)
    assert found.answer.probabilities == {}
    assert found.answer.tokens <= 3


def test_letters_stand_for_the_choices_where_the_model_learned_so(tmp_path, scan):
    model = answerer(save_run(tmp_path / "run", processing={"choices": "letters"}))
    answer = model.ask(scan, ASKED, CHOICES)
    assert set(answer.probabilities) == set(CHOICES)


def test_a_model_is_fetched_from_a_hub_only_where_the_name_says_so(run, tmp_path, monkeypatch):
    fetched = []

    def fetch(name, allow_patterns):
        fetched.append(name)
        assert not any(
            pattern.endswith((".bin", ".py", "*")) and "tokenizer" not in pattern for pattern in allow_patterns
        )
        return str(run)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert load_answerer("hf:hospital/answers", device="cpu", cache=None).name == "hf:hospital/answers"
    with pytest.raises(ReadError, match="is not a folder"):
        load_answerer("hospital/answers")
    assert fetched == ["hospital/answers"]
    monkeypatch.undo()
    with pytest.raises(ReadError, match=r"hf:no such/name/at all: cannot be fetched \("):
        load_answerer("hf:no such/name/at all")


def test_a_model_for_questions_neither_predicts_nor_embeds(run):
    with pytest.raises(ContractError, match=r"answers questions, and is neither.*crossdim ask"):
        load_predictor(run)


def test_a_classifier_does_not_answer(tmp_path):
    from tests.inference.test_predictor import classifier

    with pytest.raises(ContractError, match=r"'uni4eye', which classifies or embeds.*crossdim instruct"):
        load_answerer(classifier(tmp_path / "run"))


def test_what_cannot_be_asked_is_refused(run, scan, tmp_path):
    model = answerer(run)
    with pytest.raises(ContractError, match="question: is empty"):
        model.ask(scan, "  ")
    with pytest.raises(ContractError, match="is about no volume: no file is given"):
        model.ask([], ASKED)
    with pytest.raises(RecipeError, match="at least two, different, and not empty"):
        model.ask(scan, ASKED, ["yes"])
    with pytest.raises(ContractError, match="2 <volume> placeholders for 1 volumes"):
        model.ask(scan, "<volume> and <volume>: which?")
    with pytest.raises(ReadError, match=r"nowhere\.nii\.gz: does not exist"):
        model.ask(tmp_path / "nowhere.nii.gz", ASKED)
    with pytest.raises(ContractError, match=r"context overflow: the dialogue has \d+ tokens .* takes 512"):
        model.ask(scan, "why " * 500, CHOICES)
    with pytest.raises(ContractError, match=r"the prompt has \d+ tokens and the answer may have 500, .* 512 together"):
        model.ask(scan, ASKED, max_new_tokens=500)
