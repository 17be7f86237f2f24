"""Features of scenes: by folder, manifest, image or points alone, from Python."""

import numpy as np
import pytest
import torch

import crossdim
from crossdim.errors import ContractError, ReadError
from crossdim.inference import SceneEmbedder, load_predictor, load_scene_embedder
from crossdim.models.pimae import PimaeForPreTraining, PimaeModel
from crossdim.models.pimae_config import PimaeConfig
from crossdim.transforms.contract import ImageContract, PointsContract, PreprocessingContract, SceneContract
from tests.training.scene_toys import make_scenes

SIZES = {
    "hidden_size": 32, "num_attention_heads": 2, "patch_size": 8, "image_size": (24, 32), "num_points": 96,
    "num_groups": 12, "group_size": 8, "image_num_hidden_layers": 1, "points_num_hidden_layers": 1,
    "joint_num_hidden_layers": 1, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2,
}  # fmt: skip
CONTRACT = PreprocessingContract(
    scene=SceneContract(image=ImageContract(size=(24, 32)), points=PointsContract(drawn=200, kept=96, fewest=12)),
    source="a test",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a folder as a finished pre-training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    PimaeForPreTraining(PimaeConfig.preset("tiny", **SIZES)).save_pretrained(folder)
    CONTRACT.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root / "all", 4).save(root / "scenes.jsonl")
    points = np.random.default_rng(0).uniform(0, 3, (150, 3)).astype(np.float32)
    np.savez(root / "cloud.npz", points=points)
    return root


@pytest.fixture(scope="module")
def model(run):
    return crossdim.load(run, device="cpu")


def test_a_pre_trained_run_loads_as_what_embeds_scenes(model, run):
    assert isinstance(model, SceneEmbedder)
    assert isinstance(load_scene_embedder(run, device="cpu"), SceneEmbedder)


def test_one_scene_has_one_feature_and_a_list_a_row_for_each(model, scenes):
    one = model.embed(scenes / "all" / "scene01")
    assert one.shape == (32,)
    assert one.dtype == np.float32
    shown = []
    rows = model.embed(
        [scenes / "all", str(scenes / "scenes.jsonl")], progress=lambda done, total: shown.append((done, total))
    )
    assert rows.shape == (8, 32)
    assert np.allclose(rows[1], one)
    assert shown[-1] == (8, 8)


def test_the_same_scene_has_the_same_feature_whichever_way_it_is_named(model, scenes):
    folder = model.embed(scenes / "all" / "scene02")
    assert np.array_equal(folder, model.embed(f"{scenes / 'scenes.jsonl'}#scene02"))
    assert np.array_equal(folder, model.embed(scenes / "all" / "scene02"))


def test_a_feature_is_the_mean_of_all_tokens_of_the_prepared_scene(run, model, scenes):
    from crossdim.datasets.scenes import find_scenes
    from crossdim.training.scenes import thinned
    from crossdim.transforms.augment import generator_for
    from crossdim.transforms.scenes import prepare_scene

    ((_, load),) = find_scenes(scenes / "all" / "scene00")
    prepared = thinned(prepare_scene(load(), CONTRACT.scene, generator_for(0, 0, 0)), CONTRACT.scene)
    plain = PimaeModel.from_pretrained(run).eval()
    with torch.no_grad():
        hidden = plain(prepared.points[None], prepared.pixel_values[None]).last_hidden_state
    assert np.allclose(model.feature(load()), hidden[0, 1:].mean(dim=0).numpy(), atol=1e-6)


def test_an_image_or_points_alone_are_enough(model, scenes):
    image = model.embed(scenes / "all" / "scene00" / "image.png")
    points = model.embed(scenes / "cloud.npz")
    both = model.embed(scenes / "all" / "scene00")
    assert image.shape == points.shape == (32,)
    assert not np.allclose(image, both)


def test_several_scenes_where_one_is_meant_are_refused(model, scenes):
    with pytest.raises(ContractError, match=r"all: holds 4 scenes\. Give it in a list"):
        model.embed(scenes / "all")


def test_an_empty_list_is_refused(model):
    with pytest.raises(ContractError, match="list of scenes: is empty"):
        model.embed([])


def test_a_file_that_is_not_there_is_named(model, scenes):
    with pytest.raises(ReadError, match=r"none\.png"):
        model.embed(scenes / "none.png")


def test_a_pre_trained_model_of_scenes_does_not_predict(run):
    with pytest.raises(ContractError, match="is a pre-trained model of scenes, without a classifier"):
        load_predictor(run)


def test_another_model_is_no_embedder_of_scenes(tmp_path):
    from crossdim.models.uni4eye import Uni4EyeModel
    from crossdim.models.uni4eye_config import Uni4EyeConfig

    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    Uni4EyeModel(Uni4EyeConfig.preset("tiny", **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ContractError, match="is no pre-trained model of scenes"):
        load_scene_embedder(tmp_path)


def test_a_contract_without_scenes_is_refused(run):
    contract = PreprocessingContract(image=ImageContract(size=(8, 8)), source="photographs")
    with pytest.raises(ContractError, match=r"knows no scenes \(photographs\)"):
        SceneEmbedder(PimaeModel(PimaeConfig.preset("tiny", **SIZES)), contract, "x")
