"""Load, predict, embed: from files to answers through the contract that was saved with the model."""

import json

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image as Picture

import crossdim
from crossdim.errors import ContractError, ReadError
from crossdim.models.uni4eye import Uni4EyeForImageClassification, Uni4EyeForPreTraining
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.readers import read
from crossdim.transforms.contract import ImageContract, PreprocessingContract, VolumeContract

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
    "volume_size": (8, 16, 16),
    "volume_patch_size": (2, 8, 8),
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}
CONTRACT = PreprocessingContract(
    image=ImageContract(size=(16, 16)),
    volume=VolumeContract(size=(8, 16, 16), spacing_mm=(2.0, 1.0, 1.0), fit="crop_pad"),
    source="a test",
)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def scan(tmp_path):
    voxels = np.random.default_rng(1).normal(size=(10, 12, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1, 2, 1])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def classifier(folder, **more):
    torch.manual_seed(0)
    names = {0: "well", 1: "ill", 2: "unsure"}
    config = Uni4EyeConfig(**SIZES, id2label=names, label2id={v: k for k, v in names.items()}, task="state", **more)
    Uni4EyeForImageClassification(config).save_pretrained(folder)
    CONTRACT.save_pretrained(folder)
    return folder


def test_a_prediction_is_what_the_model_says_of_the_prepared_file(tmp_path, photo):
    predictor = crossdim.load(classifier(tmp_path / "run"), device="cpu")
    prediction = predictor.predict(photo)
    values = CONTRACT.prepare(read(photo)).tensor[None]
    expected = predictor.model.probabilities(predictor.model(values).logits)[0].detach().numpy()
    np.testing.assert_allclose(list(prediction.probabilities.values()), expected, rtol=1e-5)
    assert list(prediction.probabilities) == ["well", "ill", "unsure"]
    assert prediction.label == ["well", "ill", "unsure"][expected.argmax()]
    assert (prediction.task, prediction.path) == ("state", str(photo))


def test_images_and_volumes_share_a_list_and_keep_its_order(tmp_path, photo, scan):
    predictor = crossdim.load(classifier(tmp_path / "run"), device="cpu")
    alone = [predictor.predict(path).probabilities for path in (photo, scan)]
    together = predictor.predict([scan, photo, str(scan)])
    for found, expected in zip(together, [alone[1], alone[0], alone[1]], strict=True):
        np.testing.assert_allclose(list(found.probabilities.values()), list(expected.values()), rtol=1e-4)


def test_a_multilabel_prediction_names_every_class_above_one_half(tmp_path, photo):
    predictor = crossdim.load(classifier(tmp_path / "run", problem="multilabel"), device="cpu")
    prediction = predictor.predict(photo)
    assert prediction.label == tuple(name for name, chance in prediction.probabilities.items() if chance > 0.5)


def test_padding_leaves_no_trace_in_an_embedding(tmp_path, scan):
    """The scan fills three of eight slices and less than the plane, so most tokens are padding."""
    predictor = crossdim.load(classifier(tmp_path / "run"), device="cpu")
    prepared = CONTRACT.prepare(read(scan))
    assert any(stop - start < size for (start, stop), size in zip(prepared.valid, (8, 16, 16), strict=True))
    seen = []
    predictor.encoder.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    assert predictor.embed(scan).shape == (24,)
    assert seen[0] < 1 + 4 * 2 * 2


def test_embeddings_have_a_row_a_file_and_two_poolings(tmp_path, photo, scan):
    predictor = crossdim.load(classifier(tmp_path / "run"), device="cpu")
    features = predictor.embed([photo, scan])
    assert features.shape == (2, 24)
    assert features.dtype == np.float32
    assert not np.allclose(features[0], predictor.embed(photo, pooling="mean"))
    np.testing.assert_allclose(features[0], predictor.embed(photo, pooling="cls"), rtol=1e-4, atol=1e-5)


def test_a_pretrained_encoder_embeds_and_says_why_it_cannot_predict(tmp_path, photo):
    Uni4EyeForPreTraining(Uni4EyeConfig(**SIZES)).save_pretrained(tmp_path / "run")
    CONTRACT.save_pretrained(tmp_path / "run")
    predictor = crossdim.load(tmp_path / "run", device="cpu")
    assert predictor.embed(photo).shape == (24,)
    with pytest.raises(ContractError, match=r"is an encoder without a classifier.*Fine-tune it first"):
        predictor.predict(photo)


def test_what_is_no_run_is_refused_with_the_reason(tmp_path, photo):
    with pytest.raises(ReadError, match="is not a folder"):
        crossdim.load(tmp_path / "nowhere")
    with pytest.raises(ReadError, match=r"holds no config\.json and no complete checkpoint"):
        crossdim.load(tmp_path)
    with pytest.raises(ContractError, match="is empty"):
        crossdim.load(classifier(tmp_path / "run"), device="cpu").predict([])


def test_a_file_of_the_wrong_kind_is_refused_by_name(tmp_path, scan):
    folder = classifier(tmp_path / "run")
    PreprocessingContract(image=CONTRACT.image, source="a test").save_pretrained(folder)
    with pytest.raises(ContractError, match=r"scan\.nii\.gz.*is a volume"):
        crossdim.load(folder, device="cpu").predict(scan)


def test_an_unfinished_run_gives_its_last_complete_checkpoint(tmp_path, photo):
    from crossdim.training.checkpoints import mark_complete

    first = classifier(tmp_path / "run" / "checkpoints" / "checkpoint-10")
    mark_complete(first)
    half = classifier(tmp_path / "run" / "checkpoints" / "checkpoint-20")
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(config | {"task": "half-written"}))
    assert crossdim.load(tmp_path / "run", device="cpu").predict(photo).task == "state"


def test_a_checkpoint_without_an_encoder_is_refused(tmp_path):
    from crossdim.training.checkpoints import mark_complete

    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-10"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").touch()
    mark_complete(checkpoint)
    with pytest.raises(ReadError, match=r"has not finished.*checkpoint-10 holds an adapter"):
        crossdim.load(tmp_path / "run")


def test_progress_counts_files_up_to_all(tmp_path, photo, scan):
    told = []
    predictor = crossdim.load(classifier(tmp_path / "run"), device="cpu")
    predictor.embed([photo, scan, photo], progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3)


def test_the_package_offers_load_and_nothing_unknown():
    assert callable(crossdim.load)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = crossdim.lode
