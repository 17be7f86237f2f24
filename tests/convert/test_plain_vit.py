"""An image encoder leaves as a plain vision transformer, and gives the same tokens there."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from crossdim.convert.plain_vit import plain_vit
from crossdim.convert.plain_vit_file import export_image_encoder
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.models.pimae import PimaeForImageClassification, PimaeForPreTraining, PimaeModel
from crossdim.models.pimae_config import PimaeConfig
from crossdim.models.uni4eye import Uni4EyeForPreTraining, Uni4EyeModel
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.readers import read
from crossdim.transforms.contract import (
    ImageContract,
    PercentileIntensity,
    PointsContract,
    PreprocessingContract,
    SceneContract,
    VolumeContract,
)

SIZE = (32, 48)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SCENES = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "image_size": (64, 64),
    "patch_size": (8, 16),
    "image_num_hidden_layers": 2,
    "image_intermediate_size": 41,
    "num_groups": 10,
    "group_size": 4,
    "points_num_hidden_layers": 1,
    "points_intermediate_size": 32,
    "joint_num_hidden_layers": 1,
    "joint_intermediate_size": 32,
}
DECODERS = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
UNI4EYE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": SIZE,
    "patch_size": 8,
    "volume_size": 16,
    "volume_patch_size": 8,
    **DECODERS,
    "decoder_num_hidden_layers": 1,
}


class Plain(nn.Module):
    """A vision transformer as timm documents it, from torch alone; the weights are a dictionary."""

    def __init__(self, arguments: dict, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.arguments, self.weights, self.used = arguments, weights, set()

    def take(self, name: str) -> tuple[Tensor, Tensor | None]:
        self.used |= {f"{name}.weight", f"{name}.bias"}
        return self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")

    def norm(self, tokens: Tensor, name: str) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[-1:], *self.take(name), eps=1e-6)

    def attention(self, tokens: Tensor, name: str) -> Tensor:
        batch, count, width = tokens.shape
        heads = self.arguments["num_heads"]
        qkv = F.linear(tokens, *self.take(f"{name}.qkv")).reshape(batch, count, 3, heads, width // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = (query @ key.transpose(-2, -1) * (width // heads) ** -0.5).softmax(dim=-1) @ value
        return F.linear(mixed.transpose(1, 2).reshape(batch, count, width), *self.take(f"{name}.proj"))

    def forward(self, images: Tensor) -> Tensor:
        assert list(images.shape[1:]) == [self.arguments["in_chans"], *self.arguments["img_size"]]
        tokens = F.conv2d(images, *self.take("patch_embed.proj"), stride=self.arguments["patch_size"])
        tokens = tokens.flatten(2).transpose(1, 2)
        if self.arguments["class_token"]:
            tokens = torch.cat([self.weights["cls_token"].expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self.weights["pos_embed"]
        for block in (f"blocks.{place}" for place in range(self.arguments["depth"])):
            tokens = tokens + self.attention(self.norm(tokens, f"{block}.norm1"), f"{block}.attn")
            inside = F.linear(self.norm(tokens, f"{block}.norm2"), *self.take(f"{block}.mlp.fc1"))
            assert inside.shape[-1] == int(tokens.shape[-1] * self.arguments["mlp_ratio"])
            tokens = tokens + F.linear(F.gelu(inside), *self.take(f"{block}.mlp.fc2"))
        return self.norm(tokens, "norm") if self.arguments["final_norm"] else tokens


def shaken(model, dtype=torch.float32):
    """Return a model whose every weight matters: no embedding is zero, no norm is the identity."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval().to(dtype)


def pimae(kind=PimaeForPreTraining, **changes):
    torch.manual_seed(0)
    return shaken(kind(PimaeConfig(**SCENES, num_points=64, **DECODERS, **changes)))


def detector(**changes):
    torch.manual_seed(0)
    decoder = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
    sizes = SCENES | decoder | {"decoder_num_hidden_layers": 1, "num_queries": 5, "num_labels": 2, "image": True}
    return shaken(Detr3dForObjectDetection(Detr3dConfig(**{**sizes, **changes})))


def uni4eye(kind=Uni4EyeForPreTraining, **changes):
    torch.manual_seed(0)
    model = kind(Uni4EyeConfig(**{**UNI4EYE, **changes}))
    for name, buffer in model.named_buffers():
        if name.endswith("image_table"):
            buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(5)))
    return shaken(model)


def scene_contract(order="rgb", size=SIZE, channels=3):
    image = ImageContract(size=size, channels=channels, mean=MEAN[:channels], std=STD[:channels], channel_order=order)
    points = PointsContract(drawn=100, kept=64, fewest=10)
    return PreprocessingContract(scene=SceneContract(image=image, points=points), source="a test")


def image_contract(**changes):
    return PreprocessingContract(image=ImageContract(size=SIZE, mean=MEAN, std=STD, **changes), source="a test")


def save(model, folder, contract):
    """Write a run's last files."""
    model.save_pretrained(folder)
    contract.save_pretrained(folder)
    return folder


def images(dtype=torch.float32, size=SIZE, channels=3):
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def tokens_of(model, pixels):
    """Return what the image encoder of a model makes of images."""
    with torch.no_grad():
        if isinstance(model, Uni4EyeForPreTraining | Uni4EyeModel):
            return getattr(model, "uni4eye", model)(pixels).last_hidden_state
        if isinstance(model, Detr3dForObjectDetection):
            return model.detr3d.encode_image(pixels)
        if isinstance(model, PimaeForImageClassification):
            return model.pimae(pixels).last_hidden_state
        return getattr(model, "pimae", model)(pixel_values=pixels).image_hidden_state


def exported(folder):
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    return Plain(arguments, load_file(folder / "model.safetensors"))


SOURCES = {
    "pre-trained PiMAE": (pimae, scene_contract()),
    "PiMAE's encoders alone": (lambda: pimae(PimaeModel), scene_contract()),
    "classifier of images": (lambda: pimae(PimaeForImageClassification, num_labels=3), image_contract()),
    "detector that looks at images": (detector, scene_contract()),
    "Uni4Eye": (uni4eye, image_contract()),
    "Uni4Eye's encoder alone": (lambda: uni4eye(Uni4EyeModel), image_contract()),
    "Uni4Eye with a stored table": (lambda: uni4eye(image_positions="table"), image_contract()),
    "Uni4Eye without positions": (lambda: uni4eye(image_positions="none", qkv_bias=False), image_contract()),
}
each_source = pytest.mark.parametrize("name", SOURCES)


@each_source
def test_a_plain_vision_transformer_gives_the_same_tokens_from_the_file(name, tmp_path):
    make, contract = SOURCES[name]
    model = make()
    export_image_encoder(save(model, tmp_path / "run", contract), tmp_path / "vit")
    plain = exported(tmp_path / "vit")
    torch.testing.assert_close(plain(images()), tokens_of(model, images()), atol=1e-5, rtol=0)
    assert set(plain.weights) <= plain.used | {"pos_embed", "cls_token"}


@each_source
def test_in_double_precision_the_tokens_agree_to_ten_digits(name):
    model = SOURCES[name][0]().double()
    made = plain_vit(model.config, model.state_dict(), SIZE)
    pixels = images(torch.float64)
    torch.testing.assert_close(
        Plain(made.arguments, made.weights)(pixels), tokens_of(model, pixels), atol=1e-10, rtol=0
    )


def test_the_embedding_of_the_modality_is_part_of_the_positions(tmp_path):
    model = pimae()
    made = plain_vit(model.config, model.state_dict(), SIZE)
    with torch.no_grad():
        model.pimae.image_embedding.add_(1)
    moved = plain_vit(model.config, model.state_dict(), SIZE)
    torch.testing.assert_close(moved.weights["pos_embed"], made.weights["pos_embed"] + 1)
    assert made.weights["pos_embed"].shape == (1, 4 * 3, 24)


def test_a_model_that_takes_blue_first_leaves_as_one_that_takes_red_first(tmp_path):
    model = pimae()
    run = save(model, tmp_path / "run", scene_contract("bgr"))
    export_image_encoder(run, tmp_path / "vit")
    Picture.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    photo = read(tmp_path / "a.png")
    of_run = PreprocessingContract(image=scene_contract("bgr").scene.image, source="a test").prepare(photo).tensor
    contract = PreprocessingContract.from_pretrained(tmp_path / "vit")
    assert contract.image.mean == MEAN[::-1]
    assert contract.image.channel_order == "rgb"
    tokens = exported(tmp_path / "vit")(contract.prepare(photo).tensor[None])
    torch.testing.assert_close(tokens, tokens_of(model, of_run[None]), atol=1e-5, rtol=0)


def test_the_position_table_can_be_made_for_another_size(tmp_path):
    model = pimae()
    run = save(model, tmp_path / "run", scene_contract())
    export_image_encoder(run, tmp_path / "vit", image_size=(48, 80))
    pixels = images(size=(48, 80))
    torch.testing.assert_close(exported(tmp_path / "vit")(pixels), tokens_of(model, pixels), atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 48, 80]
    assert PreprocessingContract.from_pretrained(tmp_path / "vit").image.size == (48, 80)


def test_the_config_states_the_preprocessing(tmp_path):
    export_image_encoder(save(pimae(), tmp_path / "run", scene_contract()), tmp_path / "vit")
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    told = config["pretrained_cfg"]
    assert (told["input_size"], told["mean"], told["std"]) == ([3, *SIZE], list(MEAN), list(STD))
    assert (told["crop_mode"], told["crop_pct"], told["interpolation"]) == ("squash", 1.0, "bilinear")
    assert config["crossdim"]["channel_order"] == "rgb"
    assert not config["crossdim"]["notes"]
    assert 'timm.create_model("local-dir:vit", pretrained=True)' in (tmp_path / "vit" / "README.md").read_text()


def test_what_a_transform_of_timm_does_otherwise_is_noted(tmp_path):
    contract = image_contract(intensity=PercentileIntensity(), fit="pad")
    export = export_image_encoder(save(uni4eye(), tmp_path / "run", contract), tmp_path / "vit")
    assert "percentile" in export.notes[0]
    assert "black" in export.notes[1]
    assert all(note in (tmp_path / "vit" / "README.md").read_text() for note in export.notes)


@pytest.mark.parametrize(
    ("make", "contract", "reason"),
    [
        (lambda: detector(image=False), scene_contract(), "does not look at images"),
        (uni4eye, PreprocessingContract(volume=VolumeContract(size=(16, 16, 16)), source="a test"), "look at images"),
        (lambda: uni4eye(layer_norm_eps=1e-5), image_contract(), "layer_norm_eps 1e-05: is not the 1e-06"),
        (pimae, scene_contract(size=(30, 48)), r"size \(30, 48\): not a multiple of the patch"),
    ],
)
def test_a_model_without_such_an_encoder_is_refused_and_nothing_is_written(make, contract, reason, tmp_path):
    run = save(make(), tmp_path / "run", contract)
    with pytest.raises(ContractError, match=reason):
        export_image_encoder(run, tmp_path / "vit")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_another_kind_of_model_is_refused_by_its_type(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model_type": "med2e3"}')
    with pytest.raises(ContractError, match=r"type 'med2e3', which has no image encoder .* pimae, detr3d, uni4eye"):
        export_image_encoder(tmp_path / "run", tmp_path / "vit")


def test_a_folder_that_is_there_is_kept(tmp_path):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "mine.txt").write_text("mine")
    run = save(pimae(), tmp_path / "run", scene_contract())
    with pytest.raises(RecipeError, match="exists already"):
        export_image_encoder(run, tmp_path / "vit")
    assert [path.name for path in (tmp_path / "vit").iterdir()] == ["mine.txt"]


def test_weights_that_are_missing_or_of_another_shape_are_named():
    model = pimae()
    state = model.state_dict()
    short = {name: weight for name, weight in state.items() if "image_encoder.layers.1.norm2" not in name}
    with pytest.raises(ReadError, match=r"'image_encoder\.layers\.1\.norm2\.weight': is missing"):
        plain_vit(model.config, short, SIZE)
    state["pimae.patch_embed.bias"] = torch.zeros(5)
    with pytest.raises(ReadError, match=r"'patch_embed\.bias': has shape \(5,\) where config\.json asks for \(24,\)"):
        plain_vit(model.config, state, SIZE)


def test_every_width_inside_the_layers_survives_the_ratio():
    for inside in range(1, 200):
        made = plain_vit(
            PimaeConfig(**{**SCENES, "image_intermediate_size": inside, "image_num_hidden_layers": 0}),
            {
                "patch_embed.weight": torch.zeros(24, 3, 8, 16),
                "patch_embed.bias": torch.zeros(24),
                "image_embedding": torch.zeros(1, 1, 24),
            },
            SIZE,
        )
        assert int(24 * made.arguments["mlp_ratio"]) == inside


@pytest.fixture
def timm_is_here():
    return pytest.importorskip("timm", reason="timm is not installed; it wants torchvision, which is no dependency")


@each_source
def test_timm_loads_the_folder_and_gives_the_same_tokens(name, tmp_path, timm_is_here):
    make, contract = SOURCES[name]
    model = make()
    export_image_encoder(save(model, tmp_path / "run", contract), tmp_path / "vit")
    theirs = timm_is_here.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True).eval()
    wanted = tokens_of(model, images())
    torch.testing.assert_close(theirs(images()), wanted, atol=1e-5, rtol=0)
    source = f"local-dir:{tmp_path / 'vit'}"
    backbone = timm_is_here.create_model(source, pretrained=True, features_only=True, out_indices=[1]).eval()
    assert backbone(images())[0].shape == (2, 24, 4, 3 if "Uni4Eye" not in name else 6)
    classifier = timm_is_here.create_model(source, pretrained=True, num_classes=5, global_pool="avg").eval()
    torch.testing.assert_close(classifier.forward_features(images()), wanted, atol=1e-5, rtol=0)
    assert classifier(images()).shape == (2, 5)


def test_the_lines_of_the_readme_work(tmp_path, monkeypatch, timm_is_here):
    export_image_encoder(save(pimae(), tmp_path / "run", scene_contract()), tmp_path / "vit")
    Picture.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "vit" / "README.md").read_text(), re.S)
    for block in blocks:
        exec(block, namespace)
    assert len(blocks) == 4
    assert namespace["model"](namespace["pixels"][None]).shape == (1, 12, 24)
    assert namespace["backbone"](namespace["pixels"][None])[0].shape == (1, 24, 4, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transform_of_timm_is_the_contracts_but_for_rounding(channels, tmp_path, timm_is_here):
    model = pimae(num_channels=channels)
    export_image_encoder(save(model, tmp_path / "run", scene_contract(channels=channels)), tmp_path / "vit")
    rows, columns = np.mgrid[0:90, 0:120]
    pixels = np.stack([rows * 2, columns, 90 + rows - columns / 2], axis=-1).astype(np.uint8)
    Picture.fromarray(pixels).convert("L" if channels == 1 else "RGB").save(tmp_path / "photo.png")
    theirs = timm_is_here.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True)
    transform = timm_is_here.data.create_transform(**timm_is_here.data.resolve_model_data_config(theirs))
    ours = PreprocessingContract.from_pretrained(tmp_path / "vit").prepare(read(tmp_path / "photo.png")).tensor
    a_step = 1 / 255 / min(STD)
    torch.testing.assert_close(transform(Picture.open(tmp_path / "photo.png")), ours, atol=a_step, rtol=0)
