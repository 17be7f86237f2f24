"""Med-2E3's released folder and M3D-CLIP become folders that load and give the authors' numbers."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from crossdim.convert import convert_state_dict, med2e3
from crossdim.convert.med2e3 import convert_med2e3
from crossdim.convert.med2e3_folder import read_question_tokenizer, read_tokenizer
from crossdim.convert.med2e3_keys import our_name, place
from crossdim.convert.med2e3_parts import CLIP_PREFIX, PARTS, VIT_PREFIX
from crossdim.convert.med2e3_state import expected_shapes
from crossdim.convert.report import REPORT_NAME
from crossdim.datasets.dialogue import Turn
from crossdim.encoders.vision3d import VisionTransformer3D
from crossdim.errors import ReadError, RecipeError
from crossdim.models import auto
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.models.med2e3_config import Med2E3Config
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.text import Med2E3Processor
from tests.parity import med2e3 as parity
from tests.parity.fixture import Fixture

assert auto

FIXTURE = Fixture(Path(parity.__file__).with_name("med2e3.npz"))
CONFIG = FIXTURE.config
WEIGHTS = {name: torch.from_numpy(value) for name, value in FIXTURE.state_dict("model").items()}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "there", "a", "lesion", "?", *(f"w{n}" for n in range(54))]


def part(prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in WEIGHTS.items() if name.startswith(prefix)}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def tokenizer_json(folder: Path) -> None:
    words = {
        word: place
        for place, word in enumerate(["<unk>", "<s>", "</s>", "<|endoftext|>", *(f"t{n}" for n in range(92))])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": {"content": "<|endoftext|>", "lstrip": False}, "unk_token": "<unk>"}
    write(folder / "tokenizer_config.json", special | {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})


@pytest.fixture
def released(tmp_path) -> Path:
    """The released layout, with the weights of the parity fixture."""
    folder = tmp_path / "Med-2E3-M3D"
    for name, prefix in PARTS.items():
        (folder / name).mkdir(parents=True)
        torch.save(part(prefix), folder / name / "pytorch_model.bin")
    connector = {"connector_type": "spatial_pooling_score15_mlp2x_gelu", "hidden_size": 64}
    nested = {"llm": {"llm_hf_type": "phi3", "llm_max_length": 256}, "vision3d_connector": connector}
    write(folder / "args" / "config.json", {"exp_id": 4, "model_arguments": nested, "bf16": True})
    remote = {"auto_map": {"AutoConfig": "evil.Config"}, "torch_dtype": "bfloat16", "transformers_version": "4.42.4"}
    extended = {
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "_attn_implementation": "flash_attention_2",
    }
    write(folder / "llm" / "config.json", {"model_type": "phi3", **CONFIG["llm"], **extended, **remote})
    write(
        folder / "vision2d_model" / "config.json", {"model_type": "siglip_vision_model", **CONFIG["siglip"], **remote}
    )
    clip = {"model_type": "m3d_clip", "language_model_name_or_path": "bert-base-uncased", "in_channels": 1}
    write(folder / "vision3d_model" / "config.json", clip | CONFIG["m3d"] | remote)
    tokenizer_json(folder / "llm")
    (folder / "vision3d_model" / "vocab.txt").write_bytes("".join(f"{word}\r\n" for word in WORDS).encode())
    return folder


def save_part(folder: Path, name: str, weights: dict[str, Tensor]) -> None:
    torch.save(weights, folder / name / "pytorch_model.bin")


def change_json(path: Path, **keys: object) -> None:
    write(path, json.loads(path.read_text(encoding="utf-8")) | keys)


def assert_gives_the_authors_numbers(model: Med2E3ForConditionalGeneration) -> None:
    inputs = {
        name.removeprefix("text."): FIXTURE.input(name) for name in FIXTURE.arrays if parity.is_input(FIXTURE, name)
    }
    text = {name: torch.from_numpy(value).long() for name, value in inputs.items()}
    text["attention_mask"] = text["attention_mask"].bool()
    volume = torch.from_numpy(FIXTURE.input("volume"))
    with torch.no_grad():
        question = model.encode_question(text["questions"], text["questions_mask"])
        values = dict(parity.scoring(model, model.connect(model.encode_towers(volume)), question))
        values |= dict(parity.language(FIXTURE, model, text, volume, text["questions"], "llm"))
    assert {"tgis.scores", "llm.loss", "llm.logits_valid"} <= set(values)
    for name, value in values.items():
        assert FIXTURE.compare(name, value.detach().numpy()).ok, name


def load(folder: Path) -> Med2E3ForConditionalGeneration:
    model, info = Med2E3ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def test_the_released_folder_becomes_a_folder_that_gives_the_authors_numbers(tmp_path, released):
    report = convert_med2e3(released, tmp_path / "out")
    assert {*report.keys.used, *report.keys.unused} == set(WEIGHTS)
    assert report.keys.missing == ()
    assert set(report.keys.unused) == {
        f"{CLIP_PREFIX}{name}"
        for name in (
            "logit_scale",
            *(f"mm_{side}_proj.{kind}" for side in ("vision", "language") for kind in ("weight", "bias")),
        )
    }
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    ours = ["config.json", "contract.json", REPORT_NAME, "model.safetensors", "processor.json"]
    assert written == sorted([*ours, "tokenizer", "question_tokenizer"])
    stated = json.loads((tmp_path / "out" / REPORT_NAME).read_text(encoding="utf-8"))
    assert stated["layout"] == "Med-2E3, released folder"
    assert stated["architecture"] == "Med2E3ForConditionalGeneration"
    assert len(stated["sha256"]) == 64
    assert_gives_the_authors_numbers(load(tmp_path / "out"))


def test_the_processor_reads_text_as_the_authors_template_does(tmp_path, released):
    convert_med2e3(released, tmp_path / "out")
    processor = Med2E3Processor.from_pretrained(tmp_path / "out")
    assert (processor.prompt, processor.max_length, processor.eos) == ("vicuna", 256, "<|endoftext|>")
    assert (processor.volume_tokens, processor.image_tokens) == (25, 9)
    encoded = processor.encode([Turn(question="Is there a lesion?", answer="")], generate=True)
    assert int((encoded.input_ids == -201).sum()) == 25
    assert encoded.question_ids.tolist() == [2, 5, 6, 7, 8, 9, 3]
    contract = processor.contract.volume
    assert contract is not None
    assert (contract.size, contract.foreground_crop, contract.antialias) == ((32, 48, 48), True, False)


def test_names_of_newer_and_older_libraries_are_understood(tmp_path, released):
    newer = {name.removeprefix("vision_model."): value for name, value in part(PARTS["vision2d_model"]).items()}
    save_part(released, "vision2d_model", newer)
    older = part(PARTS["vision3d_model"]) | {"language_encoder.embeddings.position_ids": torch.arange(32)[None]}
    save_part(released, "vision3d_model", older)
    compiled = {name.replace("model.layers", "model._orig_mod.layers"): value for name, value in part("llm.").items()}
    save_part(released, "llm", compiled)
    report = convert_med2e3(released, tmp_path / "out")
    assert "older exports" in report.keys.unused[f"{CLIP_PREFIX}language_encoder.embeddings.position_ids"]
    assert_gives_the_authors_numbers(load(tmp_path / "out"))


def test_a_config_of_the_whole_siglip_serves_as_well(tmp_path, released):
    write(released / "vision2d_model" / "config.json", {"model_type": "siglip", "vision_config": CONFIG["siglip"]})
    assert_gives_the_authors_numbers(convert_and_load(released, tmp_path / "out"))


def convert_and_load(released: Path, out: Path, **options: object) -> Med2E3ForConditionalGeneration:
    convert_med2e3(released, out, **options)
    return load(out)


def test_weights_in_several_files_are_found_by_their_index(tmp_path, released):
    weights = part("llm.")
    (released / "llm" / "pytorch_model.bin").unlink()
    names = list(weights)
    halves = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, some in halves.items():
        save_file({name: weights[name] for name in some}, released / "llm" / file)
    places = {name: file for file, some in halves.items() for name in some}
    write(released / "llm" / "model.safetensors.index.json", {"weight_map": places})
    assert_gives_the_authors_numbers(convert_and_load(released, tmp_path / "out"))


def test_large_models_are_written_in_several_files(tmp_path, released, monkeypatch):
    monkeypatch.setattr(med2e3, "_MOST_NUMBERS", 10**6)
    model = convert_and_load(released, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    assert_gives_the_authors_numbers(model)


def test_weights_keep_the_numbers_they_are_stored_in(tmp_path, released):
    for name, prefix in PARTS.items():
        save_part(released, name, {key: value.bfloat16() for key, value in part(prefix).items()})
    convert_med2e3(released, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert load(tmp_path / "out").dtype == torch.bfloat16


def test_a_missing_text_projection_is_named_with_the_remedy(tmp_path, released):
    left = {name: value for name, value in part(PARTS["vision3d_connector"]).items() if "text_mlp" not in name}
    save_part(released, "vision3d_connector", left)
    with pytest.raises(
        ReadError, match=r"vision3d_connector.pytorch_model.bin: lacks 'text_mlp'.*--random-text-projection"
    ):
        convert_med2e3(released, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = convert_med2e3(released, tmp_path / "out", random_text_projection=0)
    assert report.keys.missing == ()


def test_the_authors_loader_is_reproduced_by_a_random_projection_with_a_seed(tmp_path, released):
    true = convert_and_load(released, tmp_path / "true").question_projection.weight
    drawn = []
    for place_, seed in enumerate((7, 7, 8)):
        report = convert_med2e3(released, tmp_path / str(place_), random_text_projection=seed)
        assert "random" in report.keys.unused["vision3d_connector.text_mlp.weight"]
        assert any(f"seed {seed}" in note for note in report.notes)
        model = load(tmp_path / str(place_))
        drawn.append(model.question_projection.weight)
        assert not model.question_projection.bias.any()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], true)
    assert float(drawn[0].detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("number", [6, 9, 12])
def test_other_scoring_connectors_are_recognised_by_their_name(tmp_path, released, number):
    own = FIXTURE.state_dict(f"variant{number}")
    prefix = PARTS["vision3d_connector"]
    save_part(released, "vision3d_connector", {n.removeprefix(prefix): torch.from_numpy(v) for n, v in own.items()})
    change_json(released / "args" / "config.json", vision3d_connector_type=f"spatial_pooling_score{number}_mlp2x_gelu")
    report = convert_med2e3(released, tmp_path / "out")
    assert "question encoder" in report.keys.unused[f"{CLIP_PREFIX}language_encoder.pooler.dense.weight"]
    model = load(tmp_path / "out")
    text = {
        name: torch.from_numpy(FIXTURE.input(f"text.{name}")).long() for name in ("llm_questions", "questions_mask")
    }
    with torch.no_grad():
        visual = model.connect(model.encode_towers(torch.from_numpy(FIXTURE.input("volume"))))
        question = model.encode_question(text["llm_questions"], text["questions_mask"]) if number != 9 else None
        scores = model.fuse(visual, None, question)[1]
    assert FIXTURE.compare(f"variant{number}.scores", scores[..., None].numpy()).ok


def test_a_folder_that_names_no_connector_is_taken_for_the_released_one(tmp_path, released):
    write(released / "args" / "config.json", {"note": "nothing"})
    report = convert_med2e3(released, tmp_path / "out")
    assert any("names no scoring connector" in note for note in report.notes)
    assert Med2E3Processor.from_pretrained(tmp_path / "out").max_length == 768


def test_without_a_tokenizer_the_contract_alone_is_written(tmp_path, released):
    (released / "llm" / "tokenizer.json").unlink()
    report = convert_med2e3(released, tmp_path / "out")
    assert any("no tokenizer" in note for note in report.notes)
    assert PreprocessingContract.from_pretrained(tmp_path / "out").volume is not None
    assert not (tmp_path / "out" / "processor.json").exists()


def test_the_words_of_the_question_encoder_may_be_given(tmp_path, released):
    (released / "vision3d_model" / "vocab.txt").rename(tmp_path / "vocab.txt")
    with pytest.raises(ReadError, match=r"vision3d_model.vocab.txt: does not exist.*--question-tokenizer"):
        convert_med2e3(released, tmp_path / "out")
    convert_med2e3(released, tmp_path / "out", question_tokenizer=tmp_path / "vocab.txt")
    read = Med2E3Processor.from_pretrained(tmp_path / "out").question_tokenizer
    assert read("Is there a LESION?").input_ids == [2, 5, 6, 7, 8, 9, 3]


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("stated", [True, False, None])
def test_text_begins_with_the_first_token_if_the_config_says_so(released, in_file, stated):
    path = released / "llm" / "tokenizer.json"
    if in_file:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
        tokenizer.save(str(path))
    if stated is not None:
        change_json(released / "llm" / "tokenizer_config.json", add_bos_token=stated)
    read_tokenizer(released / "llm").save_pretrained(released / "again")
    read = AutoTokenizer.from_pretrained(released / "again")
    assert read("t3 t4").input_ids == [1] * (in_file if stated is None else stated) + [7, 8]
    assert read("t3", add_special_tokens=False).input_ids == [7]


def test_word_lists_with_line_ends_of_any_system_are_alike(tmp_path):
    read = []
    for name, end in (("unix", "\n"), ("windows", "\r\n")):
        (tmp_path / name).write_bytes(end.join(WORDS).encode())
        read.append(read_question_tokenizer(tmp_path / name).get_vocab())
    assert read[0] == read[1] == {word: place for place, word in enumerate(WORDS)}
    (tmp_path / "short").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(ReadError, match=r"short: lacks \[UNK\], \[CLS\]"):
        read_question_tokenizer(tmp_path / "short")


@pytest.mark.parametrize(
    "file",
    ["args/config.json", "llm/config.json", "vision2d_model/config.json", *(f"{p}/pytorch_model.bin" for p in PARTS)],
)
def test_a_missing_file_is_named(tmp_path, released, file):
    (released / file).unlink()
    with pytest.raises(ReadError, match=rf"{file}: does not exist. Give the folder as it was released, whole\.$"):
        convert_med2e3(released, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", list(PARTS))
def test_a_truncated_file_is_refused(tmp_path, released, name):
    path = released / name / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ReadError, match=f"{name}.pytorch_model.bin: "):
        convert_med2e3(released, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Hostile:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_object_in_the_weights_runs_nothing(tmp_path, released):
    save_part(released, "llm", part("llm.") | {"extra": Hostile(tmp_path / "mark")})
    report = convert_med2e3(released, tmp_path / "out")
    assert report.not_tensors == ("llm.extra",)
    assert not (tmp_path / "mark").exists()
    assert_gives_the_authors_numbers(load(tmp_path / "out"))


def test_code_that_a_config_names_is_never_imported(tmp_path, released):
    (released / "llm" / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')", encoding="utf-8")
    (released / "vision2d_model" / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')", encoding="utf-8")
    convert_med2e3(released, tmp_path / "out")
    assert not (tmp_path / "mark").exists()
    assert "evil" not in (tmp_path / "out" / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "keys", "reason"),
    [
        ("llm/config.json", {"num_hidden_layers": 3}, "has nothing for 'language_model.model.layers.2"),
        ("llm/config.json", {"num_hidden_layers": 10**9}, "states 1000000000 layers"),
        ("llm/config.json", {"hidden_size": 128}, r"has shape \(96, 64\) where the sizes ask for \(96, 128\)"),
        ("llm/config.json", {"hidden_size": "wide"}, "llm.config.json: does not describe a model"),
        ("llm/config.json", {"model_type": "nothing"}, "llm.config.json: does not describe a model"),
        ("llm/config.json", {"model_type": None}, "llm.config.json: names no model_type"),
        ("llm/config.json", {"num_attention_heads": 0}, "does not describe a model"),
        ("vision2d_model/config.json", {"patch_size": 8}, "has shape"),
        ("vision2d_model/config.json", {"model_type": "vit"}, "cannot look at slices"),
        ("vision3d_model/config.json", {"patch_size": [4, 8, 12]}, "has shape"),
        ("vision3d_model/config.json", {"patch_size": 4}, "does not describe a model"),
        ("vision3d_model/config.json", {"pos_embed": "conv"}, "pos_embed 'conv': is not known"),
        ("vision3d_model/config.json", {"num_heads": 5}, "does not divide by the 5 attention heads"),
        ("args/config.json", {"vision3d_connector_type": "spatial_pooling_score3_mlp2x_gelu"}, "cannot be converted"),
        ("args/config.json", {"exp_id": 1}, "exp_id 1: cannot be converted"),
    ],
)
def test_config_files_that_do_not_fit_are_refused_with_the_reason(tmp_path, released, file, keys, reason):
    change_json(released / file, **keys)
    with pytest.raises((ReadError, RecipeError, ValueError), match=reason):
        convert_med2e3(released, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", "\xff", "[" * 100_000])
def test_a_damaged_config_file_is_refused(tmp_path, released, content):
    (released / "llm" / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ReadError, match=r"llm.config.json: is no (valid )?JSON"):
        convert_med2e3(released, tmp_path / "out")


@pytest.mark.parametrize("place_", ["../secret.bin", "/etc/passwd", "", ".."])
def test_an_index_may_not_name_files_elsewhere(tmp_path, released, place_):
    (released / "llm" / "pytorch_model.bin").unlink()
    write(released / "llm" / "pytorch_model.bin.index.json", {"weight_map": {"a": place_}})
    with pytest.raises(ReadError, match="names no files of this folder"):
        convert_med2e3(released, tmp_path / "out")


def test_an_existing_folder_is_kept(tmp_path, released):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(RecipeError, match="exists already"):
        convert_med2e3(released, tmp_path / "out")


CLIP = part(CLIP_PREFIX)
VIT = part(VIT_PREFIX)


@pytest.mark.parametrize(
    ("file", "weights"), [("model.safetensors", CLIP), ("pretrained_ViT.bin", VIT), ("pytorch_model.bin", CLIP)]
)
@pytest.mark.parametrize("by_folder", [True, False], ids=["folder", "file"])
def test_m3d_clip_alone_becomes_a_3d_encoder(tmp_path, file, weights, by_folder):
    source = tmp_path / "M3D-CLIP"
    source.mkdir()
    if file.endswith(".safetensors"):
        save_file(weights, source / file)
    else:
        torch.save(weights, source / file)
    write(source / "config.json", {"model_type": "m3d_clip", "auto_map": {"AutoModel": "evil.M"}, **CONFIG["m3d"]})
    report = convert_med2e3(source if by_folder else source / file, tmp_path / "out")
    assert report.layout == "M3D-CLIP, vision transformer"
    assert report.architecture == "VisionTransformer3D"
    assert {*report.keys.used, *report.keys.unused} == set(weights)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["config.json", "contract.json", REPORT_NAME, "model.safetensors"]
    tower = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert isinstance(tower, VisionTransformer3D)
    volume = torch.from_numpy(FIXTURE.input("volume"))
    with torch.no_grad():
        assert FIXTURE.compare("enc3d.out", tower(volume).numpy()).ok
        assert FIXTURE.compare("enc3d.final_norm", tower.hidden_state(volume, norm=True).numpy()).ok


def released_vit() -> dict[str, Tensor]:
    """Shapes of the published vision transformer, one layer deep."""
    return {
        "cls_token": torch.zeros(1, 1, 768),
        "patch_embedding.position_embeddings": torch.zeros(1, 2048, 768),
        "patch_embedding.patch_embeddings.1.weight": torch.zeros(768, 1024),
        "patch_embedding.patch_embeddings.1.bias": torch.zeros(768),
        **{f"blocks.0.{norm}.{kind}": torch.zeros(768) for norm in ("norm1", "norm2") for kind in ("weight", "bias")},
        "blocks.0.attn.qkv.weight": torch.zeros(2304, 768),
        "blocks.0.attn.out_proj.weight": torch.zeros(768, 768),
        "blocks.0.attn.out_proj.bias": torch.zeros(768),
        "blocks.0.mlp.linear1.weight": torch.zeros(3072, 768),
        "blocks.0.mlp.linear1.bias": torch.zeros(3072),
        "blocks.0.mlp.linear2.weight": torch.zeros(768, 3072),
        "blocks.0.mlp.linear2.bias": torch.zeros(768),
    }


def test_the_published_sizes_are_known_without_a_config_file(tmp_path):
    weights = {name: value.bfloat16() for name, value in released_vit().items()}
    torch.save(weights, tmp_path / "pretrained_ViT.bin")
    report = convert_med2e3(tmp_path / "pretrained_ViT.bin", tmp_path / "out")
    assert any("12 heads" in note for note in report.notes)
    assert report.keys.missing == ("encoder.norm.weight", "encoder.norm.bias")
    contract = PreprocessingContract.from_pretrained(tmp_path / "out").volume
    assert contract is not None
    assert contract.size == (32, 256, 256)
    assert AutoModel.from_pretrained(tmp_path / "out").config.volume_patch_size == (4, 16, 16)


def test_sizes_that_nothing_tells_are_asked_for(tmp_path):
    torch.save(VIT, tmp_path / "vit.bin")
    with pytest.raises(RecipeError, match=r"attention heads: cannot be told from a width of 48.*--heads"):
        convert_med2e3(tmp_path / "vit.bin", tmp_path / "out")
    with pytest.raises(ReadError, match=r"config.json: is needed to tell sizes: 128 positions"):
        convert_med2e3(tmp_path / "vit.bin", tmp_path / "out", heads=4)


def test_what_is_no_med2e3_is_refused_with_the_reason(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.bin")
    with pytest.raises(ReadError, match=r"is no M3D-CLIP: no 'vision_encoder.cls_token' \(it begins with a\)"):
        convert_med2e3(tmp_path / "other.bin", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="holds none of the folders llm, vision2d_model"):
        convert_med2e3(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ReadError, match="is not a file"):
        convert_med2e3(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(RecipeError, match="have no meaning for M3D-CLIP alone"):
        convert_med2e3(tmp_path / "other.bin", tmp_path / "out", random_text_projection=1)


def test_a_variant_alone_says_what_it_leaves_unfilled():
    own = {name: torch.from_numpy(value) for name, value in FIXTURE.state_dict("variant14").items()}
    config, state, report = convert_state_dict("med2e3/variant14", own, CONFIG)
    assert set(state) == {*(f"connector3d.{n}.{k}" for n in ("fc1", "fc2") for k in ("weight", "bias")), *SCORER}
    assert (config.slice_weights, config.score_key, config.score_temperature) == ("learned", "2d", 1.0)
    assert not report.unused
    assert not any(name.startswith("question") for name in report.missing)


SCORER = ("scorer.linear.weight", "scorer.linear.bias")


@pytest.mark.parametrize(
    ("system", "changed", "reason"),
    [
        ("med2e3/variant7", {}, "scoring connector 7: cannot be converted"),
        ("med2e3/variant", {}, "is unknown"),
        ("med2e3/model", {"vision3d_connector_type": "mlp2x_gelu"}, "vision3d_connector_type 'mlp2x_gelu'"),
        ("med2e3/model", {"llm_hf_type": "gpt2"}, "llm_hf_type 'gpt2': cannot be converted"),
        ("med2e3/model", {"exp_id": 2}, "exp_id 2"),
        ("med2e3/model", {"m3d": 3}, "config key 'm3d': is not a section"),
    ],
)
def test_a_model_that_cannot_be_converted_is_refused(system, changed, reason):
    with pytest.raises(RecipeError, match=reason):
        convert_state_dict(system, WEIGHTS, CONFIG | changed)


@pytest.mark.parametrize("key", ["llm", "siglip", "bert", "m3d", "llm_hf_type", "vision3d_connector_type"])
def test_a_config_without_a_part_is_refused(key):
    with pytest.raises(RecipeError, match=f"config key '{key}': is missing"):
        convert_state_dict("med2e3/model", WEIGHTS, {name: value for name, value in CONFIG.items() if name != key})


def test_weights_of_other_sizes_are_refused():
    changed = WEIGHTS | {"vision2d_connector._connector.0.bias": torch.zeros(65)}
    with pytest.raises(ReadError, match=r"_connector.0.bias': has shape \(65,\) where the sizes ask for \(64,\)"):
        convert_state_dict("med2e3/model", changed, CONFIG)


def test_two_weights_cannot_have_one_place():
    both = {"vision2d_model.vision2d_encoder.x": (1,), "vision2d_model.vision2d_encoder.vision_model.x": (1,)}
    with pytest.raises(ReadError, match="has the place of"):
        place(both, {"vision2d.x": (1,)})


def test_a_tied_head_may_be_left_out():
    tied = CONFIG | {"llm": CONFIG["llm"] | {"tie_word_embeddings": True}}
    left = {name: value for name, value in WEIGHTS.items() if name != "llm.lm_head.weight"}
    assert convert_state_dict("med2e3/model", left, tied)[2].missing == ()


def test_every_name_of_the_authors_has_one_name_of_ours():
    named = [our_name(name) for name in WEIGHTS if our_name(name)]
    assert len(named) == len(set(named)) == len(WEIGHTS) - 5


def test_the_released_sizes_have_as_many_weights_as_the_released_files():
    shapes = expected_shapes(Med2E3ForConditionalGeneration, Med2E3Config.preset("released"))
    of_contrastive_training = 1 + 2 * (768 * 768 + 768)
    assert sum(math.prod(shape) for shape in shapes.values()) == 4_361_842_433 - of_contrastive_training


def test_the_temporary_folder_is_removed_when_writing_fails(tmp_path, released, monkeypatch):
    monkeypatch.setattr(med2e3, "save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        convert_med2e3(released, tmp_path / "out")
    shutil.rmtree(released)
    assert list(tmp_path.iterdir()) == []
