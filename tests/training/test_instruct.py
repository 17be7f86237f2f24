import json
from pathlib import Path

import jaxtyping
import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.manifest import Manifest
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.training import instruct, pretrain
from crossdim.training.checkpoints import last_complete
from crossdim.training.dialogues import DialogueDataset, DialoguePart
from crossdim.training.instruct_model import start_anew
from crossdim.training.schedule import Draw
from crossdim.transforms.augment import Augmentation
from crossdim.transforms.text import Med2E3Processor
from tests.inference.toys import save_run
from tests.training.dialogue_toys import FROZEN, changed, instruct_recipe, write_dialogues


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dialogues(tmp_path_factory.mktemp("dialogues"))


@pytest.fixture(autouse=True)
def alone(tmp_path_factory, monkeypatch):
    """Keep features apart from the user's, and leave out the evaluation, which takes longer than the run."""
    monkeypatch.setenv("CROSSDIM_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(instruct, "conclude_dialogues", lambda *arguments: None)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    recipe = instruct_recipe("optimisation.epochs=6", "scoring.slice_loss_weight=0.5")
    return instruct.run(data, tmp_path_factory.mktemp("run") / "r", recipe, silent=True)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_everything_that_is_needed(finished):
    losses = [line["loss"] for line in log(finished) if "loss" in line]
    assert losses[-1] < losses[0]
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "contract.json", "processor.json", "tokenizer", "question_tokenizer",
        "run.json", "recipe.yaml", "log.jsonl", "metrics.json", "predictions.jsonl", "report.html",
    }  # fmt: skip
    document = json.loads((finished / "run.json").read_text())
    assert document["selected_on"] == "val"
    assert document["test_evaluated"]
    model = Med2E3ForConditionalGeneration.from_pretrained(finished).eval()
    processor = Med2E3Processor.from_pretrained(finished)
    assert processor.report_question == "Describe the scan."
    encoded = processor.encode([Turn(question="Is there a nodule?")], generate=True)
    found = model.generate(
        input_ids=encoded.input_ids[None], question_ids=encoded.question_ids[None],
        voxel_values=torch.zeros(1, 1, 8, 16, 16), max_new_tokens=3, do_sample=False,
    )  # fmt: skip
    assert found.shape == (1, len(encoded.input_ids) + 3)


def test_the_parts_of_the_loss_are_logged(finished):
    steps = [line for line in log(finished) if "loss" in line]
    assert all("loss/answer" in line for line in steps)
    assert any("loss/slice" in line for line in steps)  # a batch of texts has none
    assert any("eval_loss" in line for line in log(finished))
    assert any("eval_slice" in line for line in log(finished))


def test_a_finished_run_is_left_alone(finished, data):
    before = (finished / "run.json").read_text()
    instruct.run(data, finished, instruct_recipe("optimisation.epochs=6", "scoring.slice_loss_weight=0.5"), silent=True)
    assert (finished / "run.json").read_text() == before


def test_every_checkpoint_holds_the_processor(finished):
    checkpoint = last_complete(finished / "checkpoints")
    assert (
        Med2E3Processor.from_pretrained(checkpoint).volume_tokens
        == Med2E3Processor.from_pretrained(finished).volume_tokens
    )


def test_stage_two_goes_on_from_stage_one(data, tmp_path):
    one = instruct.run(
        data,
        tmp_path / "one",
        instruct_recipe("prompt.style=caption", "learning.language_model=frozen", *FROZEN),
        silent=True,
    )
    recipe = instruct_recipe("learning.vision3d=frozen", "optimisation.steps=1", anew=False)
    two = instruct.run(data, tmp_path / "two", recipe, one, silent=True)
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    changed = {name.split(".")[0] for name, value in second.items() if not torch.equal(value, first[name])}
    assert changed == {
        "connector3d",
        "connector2d",
        "question_projection",
        "question_encoder",
        "vision2d",
        "language_model",
    }
    assert Med2E3Processor.from_pretrained(one).prompt == "caption"
    assert Med2E3Processor.from_pretrained(two).prompt == "chat"
    assert json.loads((two / "run.json").read_text())["facts"]["start"]


def test_stage_one_trains_the_connectors_alone(data, tmp_path):
    recipe = instruct_recipe("prompt.style=caption", "learning.language_model=frozen", *FROZEN)
    run = instruct.run(data, tmp_path / "run", recipe, silent=True)
    start = start_anew_model(recipe, data).state_dict()
    trained = Med2E3ForConditionalGeneration.from_pretrained(run).state_dict()
    moved = {name.split(".")[0] for name, value in trained.items() if not torch.equal(value, start[name])}
    assert moved == {"connector3d", "connector2d", "question_projection"}


def start_anew_model(recipe, data):
    from transformers import set_seed

    set_seed(recipe.seed)
    begin = start_anew(recipe, instruct.split(Manifest.load(data)).train.manifest)
    set_seed(recipe.seed)
    return begin.build()


def test_low_rank_updates_are_merged_at_the_end(data, tmp_path):
    recipe = instruct_recipe("learning.language_model=lora", "lora.rank=2", "lora.targets=[q_proj]", *FROZEN)
    run = instruct.run(data, tmp_path / "run", recipe, silent=True)
    model, info = Med2E3ForConditionalGeneration.from_pretrained(run, output_loading_info=True)
    assert not any(info.values())
    start = start_anew_model(recipe, data).state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert {name.split(".")[0] for name in moved} == {
        "connector3d",
        "connector2d",
        "question_projection",
        "language_model",
    }
    assert {name.split(".")[-2] for name in moved if name.startswith("language_model")} == {"q_proj"}


def test_an_unknown_linear_map_is_refused(data, tmp_path):
    recipe = instruct_recipe("learning.language_model=lora", "lora.targets=[qq]")
    with pytest.raises(
        RecipeError, match=r"'lora\.targets' qq: is no linear map .* Use some of: down_proj, gate_proj, k_proj"
    ):
        instruct.run(data, tmp_path / "run", recipe, silent=True)


@pytest.mark.parametrize(
    "mode",
    [
        ["hardware.activation_checkpointing=true"],
        ["hardware.activation_checkpointing=true", "learning.language_model=lora"],
        ["hardware.precision=bf16"],
        ["hardware.precision=bf16", *FROZEN],
    ],
)
def test_memory_savers_train(data, tmp_path, mode, monkeypatch):
    # accelerate rebuilds model outputs from a dict in their first field, which their annotations do not allow for.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    run = instruct.run(data, tmp_path / "run", instruct_recipe(*mode, "optimisation.steps=2"), silent=True)
    assert all(line["loss"] < 10 for line in log(run) if "loss" in line)


def test_a_flip_is_refused_where_answers_depend_on_the_side(data, tmp_path):
    sided = changed(data, depends_on=("side",))
    with pytest.raises(RecipeError, match=r"'augmentation\.flip_width': would make answers false: some depend on side"):
        instruct.run(sided, tmp_path / "run", instruct_recipe("augmentation.flip_width=0.5"), silent=True)
    instruct.run(
        data, tmp_path / "free", instruct_recipe("augmentation.flip_width=0.5", "optimisation.steps=1"), silent=True
    )


def dataset_of(data: Path, **options) -> DialogueDataset:
    training = instruct.split(Manifest.load(data)).train
    processor = start_anew(instruct_recipe(), training.manifest).processor
    return DialogueDataset(training, processor, 0, **options)


def test_where_it_may_be_skipped_a_flip_spares_the_sided_questions_and_no_others(data):
    sided, free = changed(data, depends_on=("side",)), data
    for manifest, turned in ((sided, False), (free, True)):
        plain = dataset_of(manifest)[Draw(0, 0)]
        varied = dataset_of(manifest, augmentation=Augmentation(flip_width=1.0))[Draw(0, 0)]
        assert torch.equal(plain.values[0].flip(3) if turned else plain.values[0], varied.values[0])


def test_the_questions_of_a_volume_are_drawn_by_seed_cycle_and_place(data):
    dataset = dataset_of(data, questions=2)
    drawn = {tuple(map(len, (one.input_ids for one in dataset[Draw(cycle, 0)].encoded))) for cycle in range(12)}
    assert len(drawn) > 1
    assert all(len(dataset[Draw(cycle, 0)].encoded) == 2 for cycle in range(3))
    again = dataset_of(data, questions=2)
    for cycle in range(3):
        one, other = dataset[Draw(cycle, 0)], again[Draw(cycle, 0)]
        assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(one.encoded, other.encoded, strict=True))


def test_a_volume_is_in_the_batch_once_for_all_its_questions(data):
    dataset = dataset_of(data)
    batch = dataset.processor.collate([dataset[Draw(0, place)] for place in range(3)])
    assert len(batch["voxel_values"]) == 3
    assert batch["volume_index"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_slices_follow_the_extent_in_the_patient(data):
    dataset = dataset_of(data, find_slices=True)
    found = [dataset[Draw(0, place)].slice_targets for place in range(6)]
    known = [target for sample in found for (target,) in sample if target is not None]
    assert known
    assert all(target.shape == (8,) for target in known)
    assert all(sample[2] == (None,) for sample in found)  # the report asks about no place


def test_dialogues_without_an_answer_are_counted_and_not_learned(data):
    loaded = Manifest.load(data)
    open_question = Turn(question="And?")
    records = [
        record.model_copy(
            update={"dialogues": tuple(
                dialogue.model_copy(update={"turns": (*dialogue.turns, open_question)}) for dialogue in record.dialogues
            )}
        )
        for record in loaded.records
    ]  # fmt: skip
    part = DialoguePart.of(Manifest(loaded.header, tuple(records)))
    assert part.left_out["questions without an answer"] == 31
    assert all(turn.answer for dialogues in part.dialogues for dialogue in dialogues for turn in dialogue.turns)


def test_data_without_answers_are_refused(data, tmp_path):
    with pytest.raises(RecipeError, match=r"has no training record with an answered question"):
        instruct.run(changed(data, answer=""), tmp_path / "run", instruct_recipe(), silent=True)


def test_a_long_dialogue_is_refused_with_the_numbers_or_left_out(data, tmp_path, capsys):
    with pytest.raises(
        ContractError, match=r"record .*, dialogue 'both': context overflow: the dialogue has \d+ tokens"
    ):
        instruct.run(data, tmp_path / "run", instruct_recipe("prompt.max_length=22"), silent=True)
    recipe = instruct_recipe("prompt.max_length=22", "prompt.too_long=skip", "optimisation.steps=1")
    instruct.run(data, tmp_path / "skipped", recipe)
    assert "dialogues that are too long left out" in capsys.readouterr().err
    nothing = instruct_recipe("prompt.max_length=2", "prompt.too_long=skip")
    with pytest.raises(RecipeError, match=r"training split: has no dialogue left .* Raise prompt\.max_length"):
        instruct.run(data, tmp_path / "nothing", nothing, silent=True)


def without(data: Path, name: str, split: str, **changes) -> Path:
    """Write a manifest in which one volume of a split is another file, or asked about in another way."""
    loaded = Manifest.load(data)
    place = next(n for n, record in enumerate(loaded.records) if record.kind == "volume" and record.split == split)
    records = [record.model_copy(update=changes) if n == place else record for n, record in enumerate(loaded.records)]
    Manifest(loaded.header, tuple(records)).save(data.parent / f"{name}.jsonl")
    return data.parent / f"{name}.jsonl"


@pytest.fixture
def untrained(monkeypatch):
    """Fail where training begins."""
    monkeypatch.setattr(instruct, "run_trainer", lambda *arguments: pytest.fail("it was trained"))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((32, 32, 16)), "holds one value only"),
        (np.random.default_rng(0).normal(size=(32, 32, 1)), "is a volume of one slice"),
        (np.full((32, 32, 16), np.nan), "holds no finite value"),
    ],
    ids=["all zero", "one slice", "all NaN"],
)
def test_a_volume_that_shows_nothing_is_refused_in_every_split_before_training(
    data, tmp_path, untrained, split, values, message
):
    path = tmp_path / "blank.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), path)
    changed_data = without(data, "blank", split, paths=(str(path),))
    with pytest.raises(ReadError, match=message):
        instruct.run(changed_data, tmp_path / "run", instruct_recipe(), silent=True)


def test_a_long_question_of_the_test_split_is_refused_before_training(data, tmp_path, untrained):
    long = Dialogue(id="long", turns=(Turn(question="why " * 2000, answer="because"),))
    with pytest.raises(ContractError, match="dialogue 'long': context overflow"):
        instruct.run(without(data, "long", "test", dialogues=(long,)), tmp_path / "run", instruct_recipe(), silent=True)


def test_more_length_than_positions_is_refused(data, tmp_path):
    with pytest.raises(RecipeError, match=r"'prompt\.max_length': is 99999, and the language model has 1024 positions"):
        instruct.run(data, tmp_path / "run", instruct_recipe("prompt.max_length=99999"), silent=True)


def test_data_without_a_file_are_refused(data, tmp_path):
    loaded = Manifest.load(data)
    texts = tuple(record for record in loaded.records if record.kind == "text")
    Manifest(loaded.header, texts).save(data.parent / "texts.jsonl")
    with pytest.raises(RecipeError, match="has no volume and no image to ask about"):
        instruct.run(data.parent / "texts.jsonl", tmp_path / "run", instruct_recipe(), silent=True)


def test_volumes_of_several_channels_are_refused(data, tmp_path):
    loaded = Manifest.load(data)
    records = [
        record if record.kind == "text" else record.model_copy(update={"paths": record.paths * 2})
        for record in loaded.records
    ]
    Manifest(loaded.header, tuple(records)).save(data.parent / "channels.jsonl")
    with pytest.raises(ContractError, match=r"volumes of 2 channels: do not fit Med-2E3, whose slices are grey"):
        instruct.run(data.parent / "channels.jsonl", tmp_path / "run", instruct_recipe(), silent=True)


def test_several_volumes_of_a_record_are_seen_together(data, tmp_path):
    loaded = Manifest.load(data)
    volumes = [record for record in loaded.records if record.kind == "volume"]
    records = [
        record.model_copy(update={"more": (other.paths,)})
        for record, other in zip(volumes, [*volumes[1:], volumes[0]], strict=True)
    ]
    Manifest(loaded.header, tuple(records)).save(data.parent / "pairs.jsonl")
    dataset = dataset_of(data.parent / "pairs.jsonl", find_slices=True)
    sample = dataset[Draw(0, 0)]
    assert len(sample.values) == 2
    assert sample.slice_targets == ((None, None),) * 3  # an extent does not say in which of the two
    assert len(dataset.files.manifest) <= len(volumes)
    instruct.run(data.parent / "pairs.jsonl", tmp_path / "run", instruct_recipe("optimisation.steps=1"), silent=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompt.max_length=99999", r"'prompt\.max_length': is 99999, and the language model has 1024 positions"),
        ("model.vision3d.source=tiny", "'model': is given, and the model to go on from has its own"),
        ("language.source=scratch", "'language': is given"),
        ("contract.volume_size=[8, 16, 16]", "'contract': is given"),
        ("scoring.fusion=3d_only", r"'scoring\.fusion': is 3d_only, and the model to go on from was built with both"),
        ("scoring.slice_weights=learned", r"'scoring\.slice_weights': is learned"),
    ],
)
def test_what_a_start_states_already_is_refused(finished, data, tmp_path, override, message):
    with pytest.raises(RecipeError, match=message):
        instruct.run(data, tmp_path / "run", instruct_recipe(override, anew=False), finished, silent=True)


@pytest.mark.parametrize(
    ("built", "override", "error", "message"),
    [
        ({"slice_weights": "uniform"}, "slice_weights=tgis", RecipeError,
         r"'scoring\.slice_weights': is tgis, which needs a question encoder, and the model to go on from has none"),
        ({"fusion": "2d_only", "slice_weights": "tgis_2d_only"}, "slice_weights=tgis", RecipeError,
         "which needs a 3D tower, and"),
        ({"slice_weights": "uniform"}, "slice_loss_weight=1", ContractError, "has no scores to act on"),
        ({"fusion": "3d_only"}, "slice_loss_weight=1", ContractError, "has no scores to act on"),
    ],
)  # fmt: skip
def test_a_start_without_what_the_scoring_needs_is_refused_and_never_filled_at_random(
    data, tmp_path, built, override, error, message
):
    start = save_run(tmp_path / "start", **built)
    recipe = instruct_recipe(f"scoring.{override}", anew=False)
    with pytest.raises(error, match=message):
        instruct.run(data, tmp_path / "run", recipe, start, silent=True)


@pytest.mark.parametrize(
    "override",
    [
        "scoring.fusion=2d_only", "scoring.fusion=3d_only", "scoring.slice_weights=uniform",
        "scoring.slice_weights=learned", "scoring.question_feature=llm_mean", "scoring.question_feature=mlp",
        "scoring.slice_weights=top_k", "prompt.choices=letters", "batch.questions_per_volume=1",
    ],
)  # fmt: skip
def test_every_variant_trains_and_loads(data, tmp_path, override):
    run = instruct.run(data, tmp_path / "run", instruct_recipe(override, "optimisation.steps=1"), silent=True)
    _, info = Med2E3ForConditionalGeneration.from_pretrained(run, output_loading_info=True)
    assert not any(info.values())


def test_the_checkpoint_with_the_smallest_loss_on_the_validation_split_is_kept(data, tmp_path):
    recipe = instruct_recipe("optimisation.epochs=4", "optimisation.base_learning_rate=3.0", "selection.patience=1")
    run = instruct.run(data, tmp_path / "run", recipe, silent=True)
    found = {line["step"]: line["eval_loss"] for line in log(run) if "eval_loss" in line}
    best = min(found, key=lambda step: found[step])
    kept = load_file(run / "checkpoints" / f"checkpoint-{best}" / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in load_file(run / "model.safetensors").items())


def test_without_a_validation_split_the_last_step_is_kept(data, tmp_path, capsys):
    loaded = Manifest.load(data)
    records = tuple(record for record in loaded.records if record.split == "train")
    Manifest(loaded.header, records).save(data.parent / "train.jsonl")
    run = instruct.run(data.parent / "train.jsonl", tmp_path / "run", instruct_recipe("optimisation.steps=2"))
    assert "No validation split: the last step is kept" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["selected_on"] == "last step"


def test_images_and_volumes_train_together(tmp_path):
    data = write_dialogues(tmp_path / "data", images=True)
    recipe = instruct_recipe("contract.image_size=[16, 16]", "batch.images=2")
    run = instruct.run(data, tmp_path / "run", recipe, silent=True)
    assert Med2E3Processor.from_pretrained(run).contract.image is not None


def test_a_uni4eye_run_can_be_both_towers(data, toy_folder, pretrain_recipe, tmp_path):
    encoder = pretrain.run(toy_folder / "both.jsonl", tmp_path / "encoder", pretrain_recipe(), silent=True)
    recipe = instruct_recipe(
        *(f"model.vision{n}d.source={encoder}" for n in (2, 3)), "optimisation.steps=1", *FROZEN, anew=False
    )
    run = instruct.run(data, tmp_path / "run", recipe, silent=True)
    ours, theirs = load_file(run / "model.safetensors"), load_file(encoder / "model.safetensors")
    for tower in ("vision2d", "vision3d"):
        weights = {
            name.removeprefix(f"{tower}."): value for name, value in ours.items() if name.startswith(f"{tower}.")
        }
        assert weights
        assert all(torch.equal(value, theirs[f"uni4eye.{name}"]) for name, value in weights.items())
    contract = Med2E3Processor.from_pretrained(run).contract
    assert contract.volume.size == (16, 16, 16)
    facts = json.loads((run / "run.json").read_text())["facts"]
    assert facts["vision2d"] == facts["vision3d"]


def test_the_two_stages_of_the_authors_state_their_learning_rates():
    from crossdim.training.optimisation import scaled_learning_rate
    from crossdim.training.recipe_files import load_recipe

    for name, records, rate in (("med2e3-stage1", 64, 1e-4), ("med2e3-stage2", 128, 5e-5)):
        recipe = load_recipe(name, type(instruct_recipe()))
        assert scaled_learning_rate(recipe.optimisation.base_learning_rate, records) == pytest.approx(rate)
        assert recipe.batch.volumes * recipe.optimisation.accumulate * 2 == records
