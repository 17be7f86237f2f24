import json

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from crossdim.datasets.manifest import Manifest
from crossdim.encoders.vision3d import VisionTransformer3D, VisionTransformer3DConfig
from crossdim.errors import ReadError, RecipeError
from crossdim.models.uni4eye import Uni4EyeForPreTraining
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.training.instruct_model import start_anew
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_instruct import InstructRecipe, QuestionSection, Vision2DSection, Vision3DSection
from crossdim.training.towers import question_encoder, vision2d_tower, vision3d_tower
from crossdim.transforms.presets import for_images, for_med2e3
from tests.training.dialogue_toys import write_dialogues

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONTRACT = for_med2e3((8, 32, 48))


def test_named_sizes_take_what_is_stated_and_the_size_of_the_contract():
    tower = vision3d_tower(Vision3DSection(hidden_size=64, patch_size=(2, 8, 8)))
    config = tower.config(CONTRACT)
    assert (config.hidden_size, config.num_hidden_layers, config.volume_size) == (64, 4, (8, 32, 48))
    assert tower.patch == tuple(config.volume_patch_size) == (2, 8, 8)
    assert tower.model is None


def test_the_published_sizes_have_names():
    m3d, siglip = Vision3DSection(source="m3d"), Vision2DSection(source="siglip-large")
    config = vision3d_tower(m3d).config(for_med2e3())
    assert config.to_dict() == VisionTransformer3DConfig().to_dict()
    config = vision2d_tower(siglip).config(for_med2e3())
    assert (config.hidden_size, config.num_hidden_layers, config.image_size, config.patch_size) == (1024, 24, 256, 16)
    assert (config.num_channels, config.num_attention_heads, config.intermediate_size) == (3, 16, 4096)


def test_a_tower_of_slices_is_as_large_as_the_longer_side_and_has_as_many_channels_as_images():
    config = vision2d_tower(Vision2DSection()).config(CONTRACT)
    assert (config.image_size, config.num_channels) == (48, 1)
    config = vision2d_tower(Vision2DSection()).config(for_images((30, 20)))
    assert (config.image_size, config.num_channels) == (32, 3)


def test_a_converted_tower_keeps_its_weights_contract_and_hash(tmp_path):
    config = VisionTransformer3DConfig(volume_size=(8, 32, 32), volume_patch_size=(4, 16, 16), **SIZES)
    model = VisionTransformer3D(config)
    model.save_pretrained(tmp_path)
    for_med2e3((8, 32, 32)).save_pretrained(tmp_path)
    tower = vision3d_tower(Vision3DSection(source=str(tmp_path)))
    assert tower.patch == (4, 16, 16)
    assert tower.contract == for_med2e3((8, 32, 32))
    assert len(tower.sha256) == 64
    assert all(torch.equal(value, tower.model.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_authors_recipe_takes_the_preprocessing_of_a_converted_tower(tmp_path):
    config = VisionTransformer3DConfig(volume_size=(8, 32, 32), volume_patch_size=(4, 16, 16), **SIZES)
    VisionTransformer3D(config).save_pretrained(tmp_path / "tower")
    for_med2e3((8, 32, 32)).save_pretrained(tmp_path / "tower")
    named = ("model.vision2d.source=tiny", "model.question.source=tiny", "language.source=scratch")
    tower = f"model.vision3d.source={tmp_path / 'tower'}"
    recipe = load_recipe("med2e3-stage1", InstructRecipe, (tower, *named))
    training = Manifest.load(write_dialogues(tmp_path / "data")).split("train")
    assert start_anew(recipe, training).processor.contract == for_med2e3((8, 32, 32))


def test_a_uni4eye_run_gives_its_encoder(tmp_path):
    config = Uni4EyeConfig(image_size=16, patch_size=8, volume_size=16, volume_patch_size=8, **SIZES)
    model = Uni4EyeForPreTraining(config)
    model.save_pretrained(tmp_path)
    for tower in (
        vision3d_tower(Vision3DSection(source=str(tmp_path))),
        vision2d_tower(Vision2DSection(source=str(tmp_path))),
    ):
        assert tower.config(CONTRACT).model_type == "uni4eye"
        found = tower.model.state_dict()
        assert found.keys() == model.uni4eye.state_dict().keys()
        assert all(torch.equal(value, found[name]) for name, value in model.uni4eye.state_dict().items())


def test_of_a_model_of_pictures_and_texts_the_half_that_looks_is_taken(tmp_path):
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **SIZES)
    model = CLIPModel(
        CLIPConfig(text_config=CLIPTextConfig(vocab_size=99, **SIZES).to_dict(), vision_config=vision.to_dict())
    )
    model.save_pretrained(tmp_path)
    tower = vision2d_tower(Vision2DSection(source=str(tmp_path)))
    assert tower.config(CONTRACT).model_type == "clip_vision_model"
    assert tower.patch == (8, 8)


def test_a_folder_of_dinov2_is_a_tower_of_slices_but_not_of_volumes(tmp_path):
    config = Dinov2Config(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    Dinov2Model(config).save_pretrained(tmp_path)
    assert vision2d_tower(Vision2DSection(source=str(tmp_path))).patch == (8, 8)
    with pytest.raises(RecipeError, match=r"is a dinov2 model, which does not look at volumes"):
        vision3d_tower(Vision3DSection(source=str(tmp_path)))


def test_the_question_encoder_is_tiny_or_a_bert_with_its_own_tokenizer(tmp_path):
    tower, tokenizer = question_encoder(QuestionSection(), 77)
    assert tower.config(CONTRACT).vocab_size == 77
    assert tokenizer is None
    BertModel(BertConfig(vocab_size=5, **SIZES)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nword\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    tower, tokenizer = question_encoder(QuestionSection(source=str(tmp_path)), 77)
    assert tower.config(CONTRACT).vocab_size == 5
    assert tokenizer("word").input_ids == [2, 4, 3]


def test_what_is_no_bert_cannot_read_the_question(tmp_path):
    VisionTransformer3D(VisionTransformer3DConfig(volume_size=(8, 32, 32), **SIZES)).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"is a vision_transformer_3d model where a BERT is needed"):
        question_encoder(QuestionSection(source=str(tmp_path)), 77)


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"'model\.vision2d\.source' .*nothing: is neither a folder with a model"):
        vision2d_tower(Vision2DSection(source=str(tmp_path / "nothing")))
    with pytest.raises(ReadError, match="holds no model"):
        vision3d_tower(Vision3DSection(source=str(tmp_path)))
