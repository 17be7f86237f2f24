"""PiMAE's pre-training on tiny scenes: what it reads, learns, logs, draws and leaves behind."""

import json

import jaxtyping
import numpy as np
import pytest
import torch

import crossdim.training.pretrain_scenes as room
from crossdim.datasets.manifest import Manifest, Record
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.models.pimae_config import PimaeConfig
from crossdim.training.alarm import TrainingError
from crossdim.training.configs import pimae_config
from crossdim.training.contracts import scene_contract_for_run
from crossdim.training.data import Failure, check_records
from crossdim.training.health_scenes import encode_scenes, reconstruct_scenes
from crossdim.training.pretraining import pretrain_on, system_for
from crossdim.training.provenance import read_log
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
from crossdim.training.scenes import SceneDataset, collate_samples, places_by_composition, thin
from crossdim.training.schedule import Draw
from crossdim.transforms.contract import ImageContract, PreprocessingContract, SceneContract
from crossdim.transforms.scene_augment import SceneAugmentation
from tests.training.scene_toys import RECIPE, SIZE, make_scenes, mixed, without


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Return a manifest of scenes; beside it lies one of all compositions."""
    root = tmp_path_factory.mktemp("scenes")
    manifest = make_scenes(root / "all")
    manifest.save(root / "scenes.jsonl")
    mixed(manifest).save(root / "mixed.jsonl")
    return manifest


@pytest.fixture
def files(scenes):
    from pathlib import Path

    return Path(scenes.header.root).parent


@pytest.fixture
def recipe():
    def build(*overrides: str) -> PimaeRecipe:
        long = any(override.startswith(("optimisation.epochs", "optimisation.steps")) for override in overrides)
        return load_recipe(None, PimaeRecipe, (*RECIPE, *(() if long else ("optimisation.steps=4",)), *overrides))

    return build


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("crossdim.training.pretrain_scenes.report_pretraining", lambda folder: None)


def dataset_of(manifest, recipe, **options) -> SceneDataset:
    contract = scene_contract_for_run(recipe.contract, manifest, pimae_config(recipe))
    return SceneDataset(manifest, contract, pimae_config(recipe, contract), **options)


def test_a_run_leaves_model_contract_recipe_and_log_behind(files, recipe, tmp_path):
    out = room.run(files / "scenes.jsonl", tmp_path / "run", recipe(), silent=True)
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "contract.json", "run.json", "recipe.yaml", "log.jsonl"} <= names
    line = read_log(out / "log.jsonl")[0]
    assert {"loss/points", "loss/image", "loss/cross_modal", "hidden/points", "hidden/image"} <= set(line)
    assert line["samples_per_second"] > 0
    assert line["loss"] == pytest.approx(line["loss/points"] + line["loss/image"] + line["loss/cross_modal"], rel=1e-4)
    assert line["hidden/points"] == pytest.approx(7 / 12)
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_a_finished_run_is_left_alone(files, recipe, tmp_path, capsys):
    room.run(files / "scenes.jsonl", tmp_path / "run", recipe(), silent=True)
    room.run(files / "scenes.jsonl", tmp_path / "run", recipe())
    assert "is finished: nothing to do" in capsys.readouterr().err


def test_the_page_of_a_run_shows_the_scenes(files, recipe, tmp_path):
    from crossdim.training.provenance import RunFolder
    from crossdim.training.reports import report_pretraining

    chosen = recipe("optimisation.steps=2", "health.picture_every=2", "health.pictures=1")
    out = room.run(files / "scenes.jsonl", tmp_path / "run", chosen, silent=True)
    assert (out / "pictures" / "scenes-0000002.png").is_file()
    report_pretraining(RunFolder(out, chosen))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Reconstructed scenes after 2 steps" in page
    assert "cross_modal" in page


def test_a_folder_of_scenes_and_one_scene_are_data_as_well(files, recipe, tmp_path):
    whole = room.run(files / "all", tmp_path / "whole", recipe("optimisation.steps=1"), silent=True)
    one = room.run(files / "all" / "scene00", tmp_path / "one", recipe("optimisation.steps=1"), silent=True)
    assert (whole / "model.safetensors").is_file()
    assert (one / "model.safetensors").is_file()


def test_a_folder_of_photographs_trains_the_image_branch(toy_folder, recipe, tmp_path):
    chosen = recipe("optimisation.steps=2", "contract.num_points=null")
    out = room.run(toy_folder / "i", tmp_path / "run", chosen, silent=True)
    losses = {name for line in read_log(out / "log.jsonl") for name in line if name.startswith("loss/")}
    assert losses == {"loss/image"}
    assert PreprocessingContract.from_pretrained(out).scene.points is None


def test_scenes_of_all_compositions_are_trained_in_batches_of_one(files, recipe, tmp_path):
    chosen = recipe("optimisation.epochs=1", "logging.log_every=1", "health.probe_every=6")
    out = room.run(files / "mixed.jsonl", tmp_path / "run", chosen, silent=True)
    parts = [
        {name for name in line if name.startswith("loss/")} for line in read_log(out / "log.jsonl") if "loss" in line
    ]
    both = {"loss/points", "loss/image", "loss/cross_modal"}
    assert sorted(map(len, parts)) == [1, 1, 1, 1, 3, 3]
    assert both in parts
    assert {"loss/points"} in parts
    assert {"loss/image"} in parts
    last = [line for line in read_log(out / "log.jsonl") if "features/scene/spread" in line][-1]
    assert {"features/image/effective_rank", "features/points/effective_rank", "features/scene/knn_accuracy"} <= set(
        last
    )


def test_training_learns_the_scenes(files, recipe, tmp_path):
    chosen = recipe(
        "optimisation.steps=60", "logging.log_every=20", "logging.save_every=100", "optimisation.base_learning_rate=0.3"
    )
    lines = [
        line for line in read_log(room.run(files / "scenes.jsonl", tmp_path / "r", chosen, silent=True) / "log.jsonl")
        if "loss/image" in line
    ]  # fmt: skip
    assert lines[-1]["loss/image"] < 0.9 * lines[0]["loss/image"]
    assert lines[-1]["loss/points"] < lines[0]["loss/points"]


def test_a_sample_depends_on_seed_cycle_and_place_only(scenes, recipe):
    first, again = (dataset_of(scenes, recipe(), seed=3) for _ in range(2))
    one, other = first[Draw(2, 5)], again[Draw(2, 5)]
    for name in ("points", "pixel_values", "projection"):
        assert torch.equal(getattr(one.scene, name), getattr(other.scene, name))
    assert torch.equal(one.image_noise, other.image_noise)
    assert torch.equal(one.points_noise, other.points_noise)
    later = first[Draw(3, 5)]
    assert not torch.equal(one.scene.points, later.scene.points)
    assert not torch.equal(one.image_noise, later.image_noise)
    assert not torch.equal(one.scene.points, dataset_of(scenes, recipe(), seed=4)[Draw(2, 5)].scene.points)


def test_points_are_drawn_before_they_are_thinned(scenes, recipe):
    dataset = dataset_of(scenes, recipe())
    whole = {tuple(point) for point in dataset.prepared(0).points.tolist()}
    seen = dataset[Draw(0, 0)].scene.points
    assert seen.shape == (96, 3)
    assert len(whole) == SIZE[0] * SIZE[1]
    assert {tuple(point) for point in seen.tolist()} < whole


def test_a_cloud_with_fewer_points_than_the_model_sees_repeats_them():
    points = torch.arange(15, dtype=torch.float32).reshape(5, 3)
    filled = thin(points, 12)
    assert torch.equal(filled, points[[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]])


def test_augmentation_varies_the_points_and_keeps_what_they_project_on(scenes, recipe):
    plain = dataset_of(scenes, recipe(), seed=1)
    varied = dataset_of(scenes, recipe(), seed=1, augmentation=SceneAugmentation(rotation_deg=90, flip_x=0.5))
    one, other = plain[Draw(0, 0)].scene, varied[Draw(0, 0)].scene
    assert not torch.equal(one.points, other.points)
    assert torch.equal(one.pixel_values, other.pixel_values)
    assert not torch.equal(one.projection, other.projection)


def test_what_was_read_once_is_kept_until_the_memory_is_full(scenes, recipe, monkeypatch):
    size = dataset_of(scenes, recipe()).prepared(0).nbytes
    dataset = dataset_of(scenes, recipe(), cache_bytes=2 * size)
    check_records(dataset, until_full=True)
    assert dataset.full
    monkeypatch.setattr("crossdim.training.scenes.load_scene", lambda *_: pytest.fail("read again"))
    assert dataset[Draw(0, 1)].scene.points.shape == (96, 3)


def test_records_are_told_apart_by_what_they_hold(scenes):
    assert {kind: len(places) for kind, places in places_by_composition(mixed(scenes)).items()} == {
        "image": 12, "points": 12, "scene": 12,
    }  # fmt: skip


def test_a_volume_is_no_scene(scenes):
    volume = Record(id="v", patient_id="v", kind="volume", paths=("v.nii.gz",))
    with pytest.raises(RecipeError, match="record 'v': is of kind 'volume', and this training is on scenes"):
        places_by_composition(Manifest(scenes.header, (*scenes.records, volume)))


def uncalibrated(manifest: Manifest) -> Manifest:
    """Return scenes with points from a file, an image, and no camera."""

    def less(record: Record) -> Record:
        points = f"{record.id}/points.npy"
        rng = np.random.default_rng(0)
        np.save(f"{manifest.header.root}/{points}", rng.uniform(0.5, 2, (300, 3)).astype(np.float32))
        gone = {"points": points, "depth": None, "camera": None}
        return record.model_copy(update={"scene": record.scene.model_copy(update=gone)})

    return Manifest(manifest.header, tuple(map(less, manifest.records)))


def test_points_and_an_image_without_a_camera_are_refused_where_it_is_needed(tmp_path, recipe):
    dataset = dataset_of(uncalibrated(make_scenes(tmp_path / "s", 4)), recipe())
    failure = dataset[Draw(0, 0)]
    assert isinstance(failure, Failure)
    assert failure.error is ContractError
    assert "no camera that says where a point is in the image" in failure.reason
    with pytest.raises(ReadError, match="4 of 4 records cannot be used"):
        check_records(dataset)


def test_they_are_taken_where_the_masks_are_independent_and_nothing_crosses(tmp_path, recipe):
    manifest = uncalibrated(make_scenes(tmp_path / "s", 4))
    manifest.save(tmp_path / "m.jsonl")
    chosen = recipe("masking.alignment=independent", "loss.cross_modal_target=none", "optimisation.steps=1")
    out = room.run(tmp_path / "m.jsonl", tmp_path / "run", chosen, silent=True)
    assert (out / "model.safetensors").is_file()


def test_a_damaged_scene_is_named_before_the_training(tmp_path, recipe):
    make_scenes(tmp_path / "s", 6).save(tmp_path / "m.jsonl")
    (tmp_path / "s" / "scene03" / "depth.png").write_bytes(b"no picture")
    with pytest.raises(ReadError, match=r"1 of 4 records cannot be used \(scene03"):
        room.run(tmp_path / "m.jsonl", tmp_path / "run", recipe(), silent=True)


def test_the_contract_is_proposed_from_the_images_and_the_model(scenes, recipe):
    proposed = scene_contract_for_run(recipe().contract, scenes, pimae_config(recipe())).scene
    assert proposed.image.size == (24, 32)
    assert (proposed.points.drawn, proposed.points.kept, proposed.points.fewest) == (200, 96, 12)
    section = load_recipe(None, PimaeRecipe, ["model.patch_size=[8,8]", "contract.image_tokens=6"]).contract
    smaller = scene_contract_for_run(section, scenes, PimaeConfig.preset("tiny", patch_size=8)).scene
    assert smaller.image.size == (16, 24)
    assert smaller.points.kept == 1024


def test_statistics_are_the_data_s_or_imagenet_s(scenes, recipe):
    config = pimae_config(recipe())
    data = scene_contract_for_run(recipe().contract, scenes, config).scene.image
    known = scene_contract_for_run(recipe("contract.statistics=imagenet").contract, scenes, config).scene.image
    assert known.mean == (0.485, 0.456, 0.406)
    assert data.mean != known.mean


CONTRACT_MISTAKES = {
    "contract.drawn_points=50 contract.num_points=null": "'contract.drawn_points': is 50, and the model sees 1024",
    "contract.num_points=10": "'contract.num_points': is 10, and 12 groups of 8 need 12 points",
}


@pytest.mark.parametrize(("overrides", "message"), CONTRACT_MISTAKES.items())
def test_numbers_of_points_that_contradict_one_another_are_refused(overrides, message, scenes, recipe):
    chosen = recipe(*overrides.split())
    with pytest.raises(RecipeError, match=message):
        scene_contract_for_run(chosen.contract, scenes, pimae_config(chosen))


def test_the_authors_frame_is_refused_where_no_point_has_an_image(scenes, recipe):
    chosen = recipe("contract.frame=released", "contract.image_size=null")
    assert scene_contract_for_run(chosen.contract, scenes, pimae_config(chosen)).scene.frame == "released"
    with pytest.raises(RecipeError, match=r"'contract.frame': is given, and no scene has points and an image"):
        scene_contract_for_run(chosen.contract, without(scenes, "image"), pimae_config(chosen))


@pytest.mark.parametrize(("part", "key"), [("points", "num_points"), ("image", "image_size")])
def test_a_size_of_what_no_scene_has_is_refused(part, key, scenes, recipe):
    with pytest.raises(RecipeError, match=f"'contract.{key}': is given, and the data have none of these"):
        scene_contract_for_run(recipe().contract, without(scenes, part), pimae_config(recipe()))


def test_a_contract_from_a_file_is_used_as_it_is_and_has_to_fit(scenes, recipe, tmp_path):
    config = pimae_config(recipe())
    own = scene_contract_for_run(recipe().contract, scenes, config)
    own.save_pretrained(tmp_path)
    section = load_recipe(None, PimaeRecipe, [f"contract.file={tmp_path}"]).contract
    assert scene_contract_for_run(section, scenes, config) == own
    image, points = own.scene.image, own.scene.points
    for wrong, message in (
        (PreprocessingContract(image=ImageContract(size=(8, 8)), source="x"), "knows no scenes"),
        (PreprocessingContract(scene=SceneContract(points=points), source="x"), "knows no images, and the data hold"),
        (PreprocessingContract(scene=SceneContract(image=image), source="x"), "knows no points, and the data hold"),
    ):
        wrong.save_pretrained(tmp_path)
        with pytest.raises(ContractError, match=message):
            scene_contract_for_run(section, scenes, config)
    own.save_pretrained(tmp_path)
    with pytest.raises(ContractError, match=r"image size \(24, 32\) is not a multiple of the patch \(16, 16\)"):
        scene_contract_for_run(section, scenes, PimaeConfig.preset("tiny", num_groups=8))
    with pytest.raises(ContractError, match="allows clouds of 12 points, and the model needs 64"):
        scene_contract_for_run(section, scenes, PimaeConfig.preset("tiny", patch_size=8))


def test_every_key_of_model_decoder_masking_and_loss_reaches_the_config():
    changes = {
        "model.hidden_size=64": ("hidden_size", 64), "model.num_attention_heads=2": ("num_attention_heads", 2),
        "model.dropout=0.3": ("dropout", 0.3), "model.patch_size=[8,8]": ("patch_size", (8, 8)),
        "model.image_num_hidden_layers=5": ("image_num_hidden_layers", 5),
        "model.image_intermediate_size=7": ("image_intermediate_size", 7), "model.num_groups=33": ("num_groups", 33),
        "model.group_size=9": ("group_size", 9), "model.points_num_hidden_layers=5": ("points_num_hidden_layers", 5),
        "model.points_intermediate_size=7": ("points_intermediate_size", 7),
        "model.joint_num_hidden_layers=5": ("joint_num_hidden_layers", 5),
        "model.joint_intermediate_size=7": ("joint_intermediate_size", 7),
        "model.point_hidden_size=32": ("point_hidden_size", 32), "model.unit_m=0.2": ("unit_m", 0.2),
        "model.skip_points_near_origin=true": ("skip_points_near_origin", True),
        "decoder.hidden_size=32": ("decoder_hidden_size", 32),
        "decoder.num_attention_heads=2": ("decoder_num_attention_heads", 2),
        "decoder.intermediate_size=7": ("decoder_intermediate_size", 7),
        "decoder.joint_num_hidden_layers=3": ("joint_decoder_num_hidden_layers", 3),
        "decoder.image_num_hidden_layers=3": ("image_decoder_num_hidden_layers", 3),
        "decoder.points_num_hidden_layers=3": ("points_decoder_num_hidden_layers", 3),
        "decoder.points_drop_path_rate=0.3": ("points_decoder_drop_path_rate", 0.3),
        "masking.image_ratio=0.5": ("image_mask_ratio", 0.5), "masking.points_ratio=0.5": ("points_mask_ratio", 0.5),
        "masking.points=block": ("points_masking", "block"), "masking.alignment=uniform": ("mask_alignment", "uniform"),
        "loss.points_weight=2.0": ("points_weight", 2.0), "loss.image_weight=2.0": ("image_weight", 2.0),
        "loss.cross_modal_weight=2.0": ("cross_modal_weight", 2.0),
        "loss.cross_modal_target=pixels": ("cross_modal_target", "pixels"),
        "loss.cross_modal_sampling=upsampled": ("cross_modal_sampling", "upsampled"),
        "loss.cross_modal_axes=vu": ("cross_modal_axes", "vu"),
        "loss.pixel_convention=released": ("pixel_convention", "released"), "loss.chamfer=l1": ("chamfer", "l1"),
        "loss.normalise_patches=true": ("norm_pix_loss", True),
    }  # fmt: skip
    plain = pimae_config(load_recipe(None, PimaeRecipe))
    for override, (key, value) in changes.items():
        changed = pimae_config(load_recipe(None, PimaeRecipe, [override]))
        assert getattr(changed, key) == value, override
        assert getattr(plain, key) != value, override


def test_pictures_show_what_was_hidden_and_where_a_group_looks(scenes, recipe):
    dataset = dataset_of(scenes, recipe("loss.normalise_patches=true"))
    torch.manual_seed(0)
    model = room.PimaeForPreTraining(dataset.config)
    for scene in reconstruct_scenes(model, dataset, [0, 1]):
        assert scene.image.hidden.mean() == pytest.approx(7 / 12)
        assert 0 <= scene.image.values.min() <= scene.image.values.max() <= 1
        assert scene.points.groups.shape == (12, 8, 3)
        assert scene.points.hidden.sum() == 7
        kept = ~scene.points.hidden
        assert np.array_equal(scene.points.groups[kept], scene.points.reconstruction[kept])
        assert not np.array_equal(scene.points.groups[~kept], scene.points.reconstruction[~kept])
        assert scene.attention.weights.shape == (3, 4)
        column, row = scene.attention.place
        assert abs(column - 15.5) < 12
        assert abs(row - 11.5) < 9


def test_pictures_and_features_of_one_modality_alone(scenes, recipe):
    dataset = dataset_of(mixed(scenes), recipe())
    model = room.PimaeForPreTraining(dataset.config)
    places = places_by_composition(dataset.manifest)
    (image,) = reconstruct_scenes(model, dataset, places["image"][:1])
    (points,) = reconstruct_scenes(model, dataset, places["points"][:1])
    assert (image.points, image.attention, points.image, points.attention) == (None,) * 4
    features = {kind: encode_scenes(model, dataset, found, batch_size=5) for kind, found in places.items()}
    assert all(found.shape == (12, 32) for found in features.values())


def test_where_points_are_not_laid_on_the_image_the_look_has_no_place(scenes, recipe):
    dataset = dataset_of(scenes, recipe("masking.alignment=independent", "loss.cross_modal_target=none"))
    (scene,) = reconstruct_scenes(room.PimaeForPreTraining(dataset.config), dataset, [0])
    assert scene.attention.place is None


def test_watching_changes_no_number(files, recipe, tmp_path):
    length = ("optimisation.steps=3", "logging.log_every=1")
    blind = room.run(files / "scenes.jsonl", tmp_path / "blind", recipe(*length), silent=True)
    watched = recipe(*length, "health.picture_every=1", "health.probe_every=1", "health.pictures=2")
    seen = room.run(files / "scenes.jsonl", tmp_path / "seen", watched, silent=True)
    first, second = ([line["loss"] for line in read_log(out / "log.jsonl") if "loss" in line] for out in (blind, seen))
    assert first == second


def test_collapsed_features_stop_the_run(files, recipe, tmp_path):
    chosen = recipe("health.probe_every=1", "health.min_spread=100.0")
    with pytest.raises(TrainingError, match="gives nearly the same features for every scene"):
        room.run(files / "scenes.jsonl", tmp_path / "run", chosen, silent=True)


def test_a_run_of_other_data_is_refused(files, recipe, tmp_path):
    room.run(files / "scenes.jsonl", tmp_path / "run", recipe("optimisation.steps=2"), silent=True)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(run | {"status": "interrupted"}))
    with pytest.raises(RecipeError, match="holds a run that differs from this one"):
        room.run(files / "mixed.jsonl", tmp_path / "run", recipe("optimisation.steps=2"), silent=True)


def test_bf16_gives_nearly_the_losses_of_fp32_and_pictures_as_well(files, recipe, tmp_path, monkeypatch):
    # accelerate rebuilds model outputs from a dict in their first field, which their annotations do not allow for.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    losses = {}
    for precision in ("bf16", "fp32"):
        chosen = recipe("optimisation.steps=2", f"hardware.precision={precision}", "health.picture_every=2")
        out = room.run(files / "scenes.jsonl", tmp_path / precision, chosen, silent=True)
        (losses[precision],) = (line["loss"] for line in read_log(out / "log.jsonl") if "loss" in line)
        assert (out / "pictures" / "scenes-0000002.png").is_file()
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_the_system_is_the_word_the_recipe_s_or_the_data_s(files, toy_folder, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("crossdim.training.pretrain.run", lambda data, *_, **__: called.append("uni4eye") or data)
    monkeypatch.setattr("crossdim.training.pretrain_scenes.run", lambda data, *_, **__: called.append("pimae") or data)
    scenes, photographs = files / "scenes.jsonl", toy_folder / "images.jsonl"
    pretrain_on(scenes, tmp_path)
    pretrain_on(photographs, tmp_path)
    pretrain_on(photographs, tmp_path, system="pimae")
    pretrain_on(photographs, tmp_path, recipe="pimae-tiny")
    pretrain_on(scenes, tmp_path, recipe="pretrain-tiny")
    assert called == ["pimae", "uni4eye", "pimae", "pimae", "uni4eye"]
    assert (system_for(files / "all"), system_for(toy_folder)) == ("pimae", "uni4eye")


def test_a_word_that_is_no_system_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"'pimea': cannot be pre-trained\. Did you mean 'pimae'"):
        pretrain_on(tmp_path, tmp_path, system="pimea")


def test_a_recipe_of_the_other_system_is_refused(files, tmp_path):
    with pytest.raises(RecipeError, match="is of kind 'pretrain' where 'pimae' is needed"):
        pretrain_on(files / "scenes.jsonl", tmp_path / "run", system="pimae", recipe="pretrain-tiny")


def test_a_batch_has_the_arguments_of_the_model(scenes, recipe):
    dataset = dataset_of(scenes, recipe())
    batch = collate_samples([dataset[Draw(0, place)] for place in range(3)])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "points": (3, 96, 3), "pixel_values": (3, 3, 24, 32), "projection": (3, 3, 4), "frame_size": (3, 2),
        "image_noise": (3, 12), "points_noise": (3, 12),
    }  # fmt: skip


def test_a_scene_that_nothing_is_seen_of_is_refused(tmp_path, recipe):
    manifest = make_scenes(tmp_path / "t", 4)
    behind = np.full((200, 3), -1.0, np.float32) + np.random.default_rng(0).random((200, 3), np.float32)
    np.save(tmp_path / "t" / "behind.npy", behind)
    broken = manifest.records[0].scene.model_copy(update={"depth": None, "points": "behind.npy"})
    broken = manifest.records[0].model_copy(update={"scene": broken})
    manifest = Manifest(manifest.header, (broken, *manifest.records[1:]))
    with pytest.raises(ReadError, match=r"1 of 4 records cannot be used \(scene00: none of its 200 points"):
        check_records(dataset_of(manifest, recipe()))


def test_recomputing_activations_changes_no_loss(files, recipe, tmp_path):
    losses = []
    for switch in ("false", "true"):
        chosen = recipe("optimisation.steps=2", f"hardware.activation_checkpointing={switch}")
        out = room.run(files / "scenes.jsonl", tmp_path / switch, chosen, silent=True)
        losses += [line["loss"] for line in read_log(out / "log.jsonl") if "loss" in line]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
