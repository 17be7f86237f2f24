"""A detector that begins with another one: what comes along, what is fresh, what is refused, and how fast it learns."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from crossdim.convert.detr3d_file import convert_3detr
from crossdim.datasets.manifest import Manifest
from crossdim.errors import ContractError, RecipeError
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.training import detect
from crossdim.training.detection_data import split_scenes
from crossdim.training.detection_model import begin, learning_factor
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.transforms.contract import PreprocessingContract
from tests.convert.test_detr3d import SMALL, save, weights_of
from tests.training.detect_toys import MODEL, RECIPE, make_blocks, with_boxes

GOING_ON = (
    "optimisation.steps=1", "batch.scenes=4", "logging.log_every=1", "logging.report_to=none",
    "evaluation.bootstrap=100", "evaluation.pictures=0",
)  # fmt: skip
"""What a recipe says beside another detector, which has all sizes."""
CLASS_ROWS = ("box_heads.heads.classes.linear.weight", "box_heads.heads.classes.linear.bias")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a manifest of cubes and slabs, and a detector that has learned a little of them."""
    root = tmp_path_factory.mktemp("place")
    make_blocks(root / "blocks").save(root / "blocks.jsonl")
    kept = (override for override in RECIPE if not override.startswith("optimisation.epochs"))
    detect.run(
        root / "blocks.jsonl", root / "run", load_recipe(None, DetectRecipe, (*MODEL, *kept, *GOING_ON)), silent=True
    )
    return root


@pytest.fixture(scope="module")
def renamed(place):
    """Return a manifest where slabs are called boards, and sort before cubes."""
    manifest = Manifest.load(place / "blocks.jsonl")
    for number, record in enumerate(manifest.records):
        boxes = tuple(
            box.model_copy(update={"label": box.label.replace("slab", "board")}) for box in record.scene.boxes
        )
        manifest = with_boxes(manifest, number, boxes)
    manifest.save(place / "renamed.jsonl")
    return place / "renamed.jsonl"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Return a converted 3DETR of small sizes, with the classes of SUN RGB-D."""
    root = tmp_path_factory.mktemp("converted")
    convert_3detr(save(root, weights_of(SMALL), SMALL), root / "out")
    return root / "out"


def begun(manifest, start, *overrides):
    recipe = load_recipe(None, DetectRecipe, (*GOING_ON, *overrides))
    return begin(recipe, split_scenes(Manifest.load(manifest), recipe.labels, recipe.model.image), start)


def test_the_same_classes_bring_every_weight_every_size_and_the_preprocessing_along(place):
    beginning = begun(place / "blocks.jsonl", place / "run")
    theirs = Detr3dConfig.from_pretrained(place / "run")
    assert {name: value for name, value in beginning.config.to_dict().items() if name != "label2id"}.items() >= {
        name: value for name, value in theirs.to_dict().items() if name not in {"architectures", "dtype", "label2id"}
    }.items()
    assert beginning.contract.scene == PreprocessingContract.from_pretrained(place / "run").scene
    assert set(beginning.facts) == {"encoder"}
    model, came = beginning.build()
    before, now = load_file(place / "run" / "model.safetensors"), model.state_dict()
    assert set(before) == set(now) == came
    assert all(now[name].equal(before[name]) for name in now)


def test_classes_of_the_same_name_keep_their_rows_and_no_object_too_and_others_are_fresh(place, renamed):
    beginning = begun(renamed, place / "run")
    assert dict(beginning.config.id2label) == {0: "board", 1: "cube"}
    torch.manual_seed(3)
    model, came = beginning.build()
    before, now = load_file(place / "run" / "model.safetensors"), model.state_dict()
    for name in CLASS_ROWS:
        assert now[name][1:].equal(before[name][[0, 2]])
        assert not now[name][0].equal(before[name][1])
    assert set(now) - came == set(CLASS_ROWS)
    assert all(now[name].equal(before[name]) for name in came)


def test_nothing_but_sizes_and_preprocessing_comes_along_if_nothing_is_to(place):
    beginning = begun(place / "blocks.jsonl", place / "run", "transfer=none")
    assert beginning.build()[1] == frozenset()
    assert beginning.contract.scene == PreprocessingContract.from_pretrained(place / "run").scene


def test_what_is_no_weight_may_be_stated(place):
    stated = ("model.num_groups=24", "model.dropout=0.0", "loss.giou_weight=1.0", "contract.drawn_points=300")
    beginning = begun(place / "blocks.jsonl", place / "run", *stated, "contract.num_points=128")
    config, points = beginning.config, beginning.contract.scene.points
    assert (config.num_groups, config.num_queries, config.dropout, config.giou_weight) == (24, 24, 0.0, 1.0)
    assert (points.drawn, points.kept, points.fewest, config.num_points) == (300, 128, 24, 128)
    assert begun(place / "blocks.jsonl", place / "run", "model.hidden_size=32").config.hidden_size == 32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden_size=64", r"'model\.hidden_size': is 64, and the detector that training begins with has 32"),
        ("model.angle_bins=1", r"'model\.angle_bins': is 1, and .* has 12\. Leave it out"),
        ("model.decoder_num_hidden_layers=3", r"'model\.decoder_num_hidden_layers': is 3, and .* has 2"),
        ("model.tokenizer=groups", r"'model\.tokenizer': is groups, and .* has set_abstraction"),
        ("model.image=true", r"'model\.image': is True, and .* has False\. Set model\.image=false"),
        ("model.query_features=tokens", r"is tokens, and .* has none\. Set model\.query_features=none"),
        ("transfer=official", r"'transfer': is official, which says what is taken from a PiMAE"),
        ("contract.image_size=[8, 8]", r"'contract\.image_size': is given, and the pre-trained model has its own"),
        ("contract.num_points=16", r"'contract\.num_points': is 16, where 32 groups of 16 need 32 points"),
        ("contract.drawn_points=100", r"'contract\.num_points': is 256, .* and 100 are drawn"),
    ],
)
def test_a_recipe_that_contradicts_the_weights_is_refused_by_name(place, override, message):
    with pytest.raises(RecipeError, match=message):
        begun(place / "blocks.jsonl", place / "run", override)


def test_groups_have_no_radius_whichever_detector_they_come_from(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    config = Detr3dConfig.from_pretrained(place / "run")
    config.tokenizer = "groups"
    config.save_pretrained(tmp_path / "run")
    with pytest.raises(RecipeError, match=r"'model\.group_radius': is given, and the groups of the detector"):
        begun(place / "blocks.jsonl", tmp_path / "run", "model.group_radius=0.3")


def test_a_detector_without_a_contract_that_fits_it_is_refused(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    file = tmp_path / "run" / "contract.json"
    contract = PreprocessingContract.from_pretrained(file)
    file.unlink()
    with pytest.raises(ContractError, match=r"contract\.json.*does not exist"):
        begun(place / "blocks.jsonl", tmp_path / "run")
    config = Detr3dConfig.from_pretrained(place / "run")
    config.image = True
    config.save_pretrained(tmp_path / "run")
    contract.save_pretrained(tmp_path / "run")
    with pytest.raises(ContractError, match=r"knows no images, and the detector looks at them"):
        begun(place / "blocks.jsonl", tmp_path / "run", "model.image=true")


def test_a_model_of_something_else_is_no_beginning(place, tmp_path):
    Uni4EyeConfig.preset("tiny").save_pretrained(tmp_path)
    with pytest.raises(ContractError, match="is neither a pre-trained model of scenes nor a detector"):
        begun(place / "blocks.jsonl", tmp_path)


def test_what_came_of_a_detector_learns_more_slowly_the_deeper_it_lies(place, renamed):
    config = Detr3dConfig.from_pretrained(place / "run")  # two layers in the encoders and two in the decoder
    _, came = begun(place / "blocks.jsonl", place / "run").build()
    names = (
        "detr3d.set_abstraction.mlp.maps.0.weight", "detr3d.points_encoder.layers.0.norm1.weight",
        "detr3d.joint.layers.0.norm1.weight", "detr3d.projection.maps.0.weight", "detr3d.query_projection.fc1.weight",
        "detr3d.decoder.layers.0.norm1.weight", "detr3d.decoder.layers.1.norm1.weight", "detr3d.decoder.norm.weight",
        CLASS_ROWS[0],
    )  # fmt: skip
    powers = (6, 5, 4, 3, 3, 3, 2, 1, 1)
    assert set(names) <= came
    assert [learning_factor(name, config, came, 0.5) for name in names] == [0.5**power for power in powers]
    _, without_rows = begun(renamed, place / "run").build()
    assert learning_factor(CLASS_ROWS[0], config, without_rows, 0.5) == 1


def test_training_goes_on_with_other_classes_and_says_what_it_began_with(place, renamed, tmp_path):
    recipe = load_recipe(None, DetectRecipe, GOING_ON)
    out = detect.run(renamed, tmp_path / "run", recipe, place / "run", silent=True)
    assert dict(Detr3dConfig.from_pretrained(out).id2label) == {0: "board", 1: "cube"}
    assert "encoder" in json.loads((out / "run.json").read_text())["facts"]
    checkpoint = next((place / "run" / "checkpoints").iterdir())
    other = detect.run(renamed, tmp_path / "other", recipe, checkpoint, silent=True)
    assert set(json.loads((other / "metrics.json").read_text())) == {"val", "test"}


def test_a_converted_3detr_goes_on_with_its_released_options_and_numbers_of_points(place, converted, tmp_path):
    beginning = begun(place / "blocks.jsonl", converted)
    points = beginning.contract.scene.points
    assert (points.drawn, points.kept, points.fewest) == (20000, 20000, 64)
    assert (beginning.config.giou, beginning.config.skip_points_near_origin) == ("released", True)
    assert len(beginning.config.id2label) == 2
    few = ("contract.num_points=128", "contract.drawn_points=400")
    recipe = load_recipe(None, DetectRecipe, (*GOING_ON, *few))
    out = detect.run(place / "blocks.jsonl", tmp_path / "run", recipe, converted, silent=True)
    assert Detr3dForObjectDetection.from_pretrained(out).config.points_num_hidden_layers == 3
