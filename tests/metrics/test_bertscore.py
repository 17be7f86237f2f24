"""BERTScore against a plain computation on a tiny random BERT, and against the numbers of the bert-score package."""

import numpy as np
import pytest

from crossdim.errors import ReadError
from crossdim.metrics.bertscore import LocalBertScore, Tokens, matched, packaged_model


def tokens(*vectors: tuple[float, float], counted: list[bool] | None = None) -> Tokens:
    found = np.array(vectors, dtype=np.float64)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return Tokens(found, np.array(counted or [True] * len(vectors)))


def test_every_token_is_matched_with_the_most_similar_one():
    said, true = tokens((1, 0), (0, 1)), tokens((1, 0), (1, 1))
    precision, recall = (1 + np.sqrt(0.5)) / 2, (1 + np.sqrt(0.5)) / 2
    assert matched(said, true) == pytest.approx(2 * precision * recall / (precision + recall))
    assert matched(said, said) == pytest.approx(1)


def test_tokens_that_mark_the_ends_are_matched_but_not_counted():
    said, true = tokens((1, 0), (0, 1), counted=[True, False]), tokens((0, 1), (1, 0), counted=[False, True])
    assert matched(said, true) == pytest.approx(1)
    assert matched(tokens((1, 0), counted=[False]), true) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("bert")
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "liver": 4, "large": 5, "is": 6, "small": 7}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=16,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    ).save_pretrained(place)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=8, max_position_embeddings=16, **sizes)).save_pretrained(place)
    return place


def test_a_model_in_a_folder_scores_pairs_and_equal_texts_are_one(folder):
    score = LocalBertScore(folder)
    equal, near, empty = score(["liver is large", "liver is small", ""], ["liver is large", "liver is large", "liver"])
    assert equal == pytest.approx(1, abs=1e-6)
    assert 0 < near < equal
    assert empty == 0


def test_a_score_does_not_depend_on_the_other_pairs_and_long_texts_are_cut(folder):
    score = LocalBertScore(folder, layer=1)
    alone = score(["liver"], ["liver is large"])
    among = score(["is " * 40, "liver"], ["small", "liver is large"])
    assert among[1] == pytest.approx(alone[0], abs=1e-5)


def test_a_folder_without_a_model_and_a_layer_it_lacks_are_refused(folder, tmp_path):
    with pytest.raises(ReadError, match="is no folder with a language model"):
        LocalBertScore(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ReadError, match="holds no model for BERTScore"):
        LocalBertScore(tmp_path)
    with pytest.raises(ReadError, match="has 2 layers, and layer 5"):
        LocalBertScore(folder, layer=5)


@pytest.mark.slow
def test_the_packaged_model_gives_the_numbers_of_the_bert_score_package():
    """They were computed by bert-score 0.3.13 with ``num_layers=6``, no idf, no rescaling."""
    try:
        score = LocalBertScore(packaged_model())
    except ReadError as error:
        pytest.skip(str(error))
    said = ["The liver is large.", "no tumour", "Left kidney: 1.4 mL"]
    true = ["The liver is enlarged.", "there is no tumor in the brain", "the left kidney measures 1.5 mL."]
    assert score(said, true) == pytest.approx([0.8449867, 0.6083073, 0.8763073], abs=1e-5)
