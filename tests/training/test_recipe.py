import ast
import re

import pytest
import yaml
from pydantic import BaseModel

from crossdim.errors import RecipeError
from crossdim.models.detr3d_config import SUNRGBD
from crossdim.training.optimisation import scaled_learning_rate
from crossdim.training.recipe import DecoderSection, FinetuneRecipe, PretrainRecipe
from crossdim.training.recipe_detect import DetectionLossSection, DetectorSection, DetectRecipe
from crossdim.training.recipe_files import differences, flatten, load_recipe, recipe_text, shipped_recipes
from crossdim.training.recipe_instruct import InstructRecipe, ScoringSection
from crossdim.training.recipe_pimae import PimaeRecipe, SceneDecoderSection, SceneLossSection, SceneModelSection
from crossdim.training.sections import ModelSection
from crossdim.transforms.scene_augment import SceneAugmentation, SceneCrop
from tests.conftest import ROOT

KINDS = {
    "pretrain": PretrainRecipe, "finetune": FinetuneRecipe, "instruct": InstructRecipe, "med2e3": InstructRecipe,
    "pimae": PimaeRecipe, "detect": DetectRecipe,
}  # fmt: skip


def test_every_shipped_recipe_loads():
    names = set(shipped_recipes())
    assert names == {
        "pretrain-tiny", "pretrain-paper", "finetune-linear", "finetune-full", "finetune-partial", "finetune-lora",
        "instruct-tiny", "instruct-smollm2", "med2e3-stage1", "med2e3-stage2", "med2e3-stage2-lora",
        "pimae-paper", "pimae-tiny", "detect-paper", "detect-tiny",
    }  # fmt: skip
    for name in names:
        load_recipe(name, KINDS[name.split("-")[0]])


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_resolved_recipe_means_the_same_when_it_is_read_again(name, tmp_path):
    recipe = load_recipe(name, KINDS[name.split("-")[0]])
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(recipe), encoding="utf-8")
    assert load_recipe(path, type(recipe)) == recipe


@pytest.mark.parametrize(
    "override",
    ["optimisation.steps=7", "loss.gradient_weight=0", "contract.image_tokens=64", "masking.volume_block=[1, 2, 2]"],
)
def test_overridden_recipes_survive_being_written_and_read(override, tmp_path):
    recipe = load_recipe(None, PretrainRecipe, [override])
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(recipe), encoding="utf-8")
    assert load_recipe(path, PretrainRecipe) == recipe


def test_the_paper_recipe_has_the_learning_rate_and_order_of_the_authors_run():
    recipe = load_recipe("pretrain-paper", PretrainRecipe)
    assert (recipe.mixing.order, recipe.mixing.images, recipe.mixing.volumes) == ("alternate_epochs", 64, 8)
    assert recipe.optimisation.betas == (0.9, 0.95)
    assert recipe.optimisation.warmup * recipe.optimisation.epochs == 40
    assert recipe.model.preset == "large"


def test_overrides_are_read_as_yaml_and_applied_in_order():
    recipe = load_recipe(
        "pretrain-tiny",
        PretrainRecipe,
        ["optimisation.base_learning_rate=1e-3", "mixing.images=3", "mixing.images=5", "model.patch_size=[8, 4]"],
    )
    assert recipe.optimisation.base_learning_rate == 1e-3
    assert recipe.mixing.images == 5
    assert recipe.model.patch_size == (8, 4)


def test_an_override_of_the_length_replaces_the_file_s():
    assert load_recipe("pretrain-tiny", PretrainRecipe, ["optimisation.steps=9"]).optimisation.epochs is None
    assert load_recipe("pretrain-tiny", PretrainRecipe, ["optimisation.epochs=9"]).optimisation.steps is None


def test_steps_alone_replace_the_default_number_of_epochs():
    assert load_recipe(None, PretrainRecipe, ["optimisation.steps=9"]).optimisation.epochs is None


PRETRAIN_MISTAKES = {
    "optimisation.base_learning_rat=1": "base_learning_rat': is unknown. Did you mean 'base_learning_rate'",
    "modell.preset=tiny": "'modell': is unknown. Did you mean 'model'",
    "seed=high": "'seed': is 'high'; input should be a valid integer",
    "seed=1.5": "'seed': is 1.5",
    "hardware.activation_checkpointing=1": "activation_checkpointing': is 1; input should be a valid boolean",
    "masking.image_ratio=1.0": "'masking.image_ratio': is 1.0; input should be less than 1",
    "model.preset=tny": "'model.preset': is 'tny'",
    "model=tiny": "'model': is 'tiny'; input should be an object",
    "optimisation.steps=5 optimisation.epochs=2": "either epochs or steps",
    "loss.gradient_weight=0 loss.intensity_weight=0": "nothing would be learned",
    "loss.gradient_weight=0 loss.edge_scale=1": "edge_scale have no effect while gradient_weight is zero",
    "mixing.images=0 mixing.volumes=0": "every step would be empty",
    "contract.file=c.json contract.image_size=[8,8]": "file and image_size exclude each other",
    "contract.file=c.json contract.image_tokens=8": "file and image_tokens exclude each other",
    "contract.volume_size=[8,8,8] contract.volume_tokens=8": "volume_size and volume_tokens exclude each other",
    "logging.keep_checkpoints=1": "'logging.keep_checkpoints': is 1; input should be greater than or equal to 2",
}
PIMAE_MISTAKES = {
    "loss.cross_modal_weight=0": "cross_modal_weight is zero: set cross_modal_target to none instead",
    "loss.cross_modal_target=none loss.cross_modal_axes=vu": "cross_modal_axes has no effect while cross_modal_target",
    "loss.cross_modal_target=none loss.points_weight=0 loss.image_weight=0": "nothing would be learned",
    "contract.file=c.json contract.drawn_points=8": "file and drawn_points exclude each other",
    "contract.image_size=[8,8] contract.image_tokens=8": "image_size and image_tokens exclude each other",
    "contract.num_points=64 contract.drawn_points=32": "num_points is 64, and only 32 are drawn",
    "augmentation.scale=[2.0,1.0]": "scale must be (smallest, largest)",
    "masking.alignment=opposite": "'masking.alignment': is 'opposite'",
}
DETECT_MISTAKES = {
    "model.group_radius=0.2 model.tokenizer=groups": "group_radius has no effect with groups",
    "model.patch_size=[8,8]": "patch_size has no effect while image is false",
    "model.point_hidden_size=32": "point_hidden_size has no effect unless tokenizer is groups",
    "model.unit_m=0": "'model.unit_m': is 0",
    "labels.scenes=4 labels.fraction=0.5": "fraction and scenes exclude each other",
    "labels.classes=[bed,bed]": "classes names a class twice",
    "labels.classes=[]": "'labels.classes': is []",
    "labels.fraction=0": "'labels.fraction': is 0",
    "crop.size=[1.0,0.5]": "size must be (smallest, largest)",
    "crop.aspect=0.5": "aspect has no effect while size is (1, 1)",
    "optimisation.average=1": "'optimisation.average': is 1",
    "selection.metric=auc": "'selection.metric': is 'auc'",
}
FINETUNE_MISTAKES = {
    "adaptation.mode=lora adaptation.rnk=2": "'adaptation.rnk': is unknown. Did you mean 'rank'",
    "adaptation.mode=lorra": "'adaptation.mode': is 'lorra'. Did you mean 'lora'",
    "adaptation.rank=2": "'adaptation.mode': is missing",
    "augmentation.flip_width=0.5": "augmentation.flip_width would make labels false that depend on side",
}


@pytest.mark.parametrize(("overrides", "message"), PRETRAIN_MISTAKES.items())
def test_what_a_pretraining_recipe_cannot_mean_is_refused_by_name(overrides, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(None, PretrainRecipe, overrides.split())


@pytest.mark.parametrize(("overrides", "message"), PIMAE_MISTAKES.items())
def test_what_a_recipe_of_scenes_cannot_mean_is_refused_by_name(overrides, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(None, PimaeRecipe, overrides.split())


@pytest.mark.parametrize(("overrides", "message"), DETECT_MISTAKES.items())
def test_what_a_recipe_of_detection_cannot_mean_is_refused_by_name(overrides, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(None, DetectRecipe, overrides.split())


def test_the_recipe_of_the_detector_s_paper_has_the_authors_schedule_and_classes():
    recipe = load_recipe("detect-paper", DetectRecipe)
    optimisation = recipe.optimisation
    assert scaled_learning_rate(optimisation.base_learning_rate, recipe.batch.scenes) == pytest.approx(7e-4)
    assert optimisation.warmup * optimisation.epochs == pytest.approx(9, rel=0.01)
    assert (optimisation.max_grad_norm, optimisation.weight_decay, optimisation.layer_decay) == (0.1, 0.1, 1.0)
    assert recipe.labels.classes == SUNRGBD
    assert recipe.augmentation == SceneAugmentation(flip_x=0.5, rotation_deg=30, scale=(0.85, 1.15))
    assert recipe.crop == SceneCrop(size=(0.75, 1.0), aspect=0.75, fewest_points=0.6)
    assert recipe.contract.num_points == recipe.contract.drawn_points == 20000


def test_the_recipe_of_pimae_s_paper_has_the_learning_rate_and_the_masks_of_the_paper():
    recipe = load_recipe("pimae-paper", PimaeRecipe)
    assert recipe.optimisation.warmup * recipe.optimisation.epochs == 15
    assert recipe.optimisation.betas == (0.9, 0.999)
    assert recipe.optimisation.base_learning_rate == 1e-3
    assert recipe.batch.scenes * recipe.optimisation.accumulate == 256
    assert (recipe.masking.alignment, recipe.masking.points_ratio) == ("complement", 0.6)
    assert (recipe.contract.image_size, recipe.contract.num_points) == ((256, 352), 2048)


@pytest.mark.parametrize(("overrides", "message"), FINETUNE_MISTAKES.items())
def test_what_a_finetuning_recipe_cannot_mean_is_refused_by_name(overrides, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(None, FinetuneRecipe, overrides.split())


def test_several_mistakes_are_counted():
    with pytest.raises(RecipeError, match=r"\(1 more like this\)"):
        load_recipe(None, PretrainRecipe, ["seeed=1", "modell=2"])


def test_flips_are_allowed_when_no_label_depends_on_the_side():
    recipe = load_recipe(None, FinetuneRecipe, ["augmentation.flip_width=0.5", "labels_depend_on=[]"])
    assert recipe.augmentation.flip_width == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "is not of the form"),
        ("=3", "is not of the form"),
        ("a..b=3", "is not of the form"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_an_override_that_is_none_is_refused(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, PretrainRecipe, [override])


def test_an_override_below_a_value_is_refused():
    with pytest.raises(RecipeError, match="'seed' holds a value, not a section"):
        load_recipe(None, PretrainRecipe, ["seed=1", "seed.x=2"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "holds no 'key: value' lines"),
        ("seed: 1\nseed: 2", "key 'seed' is given twice"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text, message, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, PretrainRecipe)


def test_an_empty_section_in_a_file_can_be_filled_by_an_override(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model:\n", encoding="utf-8")
    assert load_recipe(path, PretrainRecipe, ["model.preset=small"]).model.preset == "small"


def test_an_unknown_recipe_name_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match=r"neither a file nor a shipped recipe\. Did you mean 'pretrain-tiny'"):
        load_recipe("pretrain-tyni", PretrainRecipe)


def test_a_recipe_of_the_other_kind_is_refused():
    with pytest.raises(RecipeError, match="is of kind 'finetune' where 'pretrain' is needed"):
        load_recipe("finetune-lora", PretrainRecipe)


def test_differences_name_the_key_and_both_values():
    old, new = (load_recipe(None, PretrainRecipe, [f"seed={seed}", f"hardware.workers={seed}"]) for seed in (1, 2))
    assert differences(old, new, ["hardware.workers"]) == ["seed: 1 → 2"]


def keys_of(section: type[BaseModel]) -> set[str]:
    """Return every key of a section and of the sections in it."""
    found = set()
    for name, field in section.model_fields.items():
        found.add(name)
        for part in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= keys_of(part)
    return found


@pytest.mark.parametrize("kind", dict.fromkeys(KINDS.values()))
def test_no_key_is_dead(kind):
    """Every key is read somewhere outside the recipe's own definition (its effect is tested where it acts)."""
    read = set()
    for path in (ROOT / "src" / "crossdim").rglob("*.py"):
        if path.name in ("recipe.py", "recipe_detect.py", "recipe_instruct.py", "recipe_pimae.py", "sections.py"):
            continue
        read |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    sections = (ModelSection, DecoderSection, ScoringSection, SceneModelSection, SceneDecoderSection, SceneLossSection)
    sections += (DetectorSection, DetectionLossSection)
    passed_on = {name for part in sections for name in part.model_fields}
    by_name = {"image_size", "volume_size"}  # by getattr
    refused = {"labels_depend_on"}  # acts in the recipe itself
    assert keys_of(kind) <= read | passed_on | by_name | refused


def test_shipped_recipes_state_what_they_are_for():
    for name, text in shipped_recipes().items():
        assert text.startswith("# "), name
        assert flatten(yaml.safe_load(text))["kind"] == KINDS[name.split("-")[0]].model_fields["kind"].default
