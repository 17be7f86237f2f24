import json
import pickle

import numpy as np
import pytest
import torch

from crossdim.errors import ContractError
from crossdim.transforms.contract import (
    FILE_NAME,
    ImageContract,
    PercentileIntensity,
    PreprocessingContract,
    VolumeContract,
    WindowIntensity,
)
from tests.transforms.toys import image, noise, volume

BOTH = PreprocessingContract(
    image=ImageContract(size=(32, 48), fit="pad", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5)),
    volume=VolumeContract(
        size=(16, 24, 32),
        spacing_mm=(3.0, 1.0, 1.0),
        fit="crop_pad",
        channels=2,
        channel_names=("T1", "FLAIR"),
        intensity=PercentileIntensity(low=1.0),
    ),
    source="a test",
)
CT = VolumeContract(size=(8, 8, 8), intensity=WindowIntensity(low=-160, high=240))


def text_with(path, value):
    tree = BOTH.model_dump(mode="json")
    *steps, last = path
    part = tree
    for step in steps:
        part = part[step]
    part[last] = value
    return json.dumps(tree)


def test_saving_and_loading_returns_an_equal_contract(tmp_path):
    path = BOTH.save_pretrained(tmp_path / "new" / "folder")
    assert path.name == FILE_NAME
    assert PreprocessingContract.from_pretrained(path.parent) == BOTH
    assert PreprocessingContract.from_pretrained(path) == BOTH
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]


def test_a_crash_while_saving_leaves_the_old_contract(tmp_path, monkeypatch):
    BOTH.save_pretrained(tmp_path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        BOTH.model_copy(update={"source": "new"}).save_pretrained(tmp_path)
    assert PreprocessingContract.from_pretrained(tmp_path) == BOTH
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]


def test_a_contract_travels_between_processes():
    assert pickle.loads(pickle.dumps(BOTH)) == BOTH


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("imgae",), {}, "'imgae': is unknown. Did you mean 'image'"),
        (("image", "szie"), [1, 2], "'image.szie': is unknown. Did you mean 'size'"),
        (("volume", "intensity", "hihg"), 9, "'volume.intensity.hihg': is unknown. Did you mean 'high'"),
        (("image", "size"), "224", "'image.size': is '224'; input should be a valid array"),
        (("image", "size"), [16, 1.5], r"'image.size.1': is 1.5; input should be a valid integer"),
        (("image", "size"), [16, 0], r"'image.size.1': is 0; input should be greater than or equal to 1"),
        (("image", "fit"), "squeeze", "'image.fit': is 'squeeze'; input should be 'resize', 'crop' or 'pad'"),
        (("image", "mean"), None, "'image': mean and std go together"),
        (("volume", "channels"), "2", "'volume.channels': is '2'; input should be a valid integer"),
        (("volume", "intensity"), {"kind": "windo"}, "'volume.intensity': is a section; input tag 'windo'"),
        (("volume", "intensity"), {"kind": "window", "low": 1}, "'volume.intensity.high': is missing"),
        (("volume", "orientation"), "XYZ", "'volume': orientation must be one letter each"),
        (("version",), 2, "'version': is 2, and this crossdim knows 1. Update crossdim"),
    ],
)
def test_a_wrong_key_is_refused_by_name(path, value, message):
    with pytest.raises(ContractError, match=message):
        PreprocessingContract.parse(text_with(path, value))


def test_a_missing_source_is_named():
    with pytest.raises(ContractError, match=r"my.json: 'source': is missing. Add it"):
        PreprocessingContract.parse('{"image": {"size": [8, 8]}}', "my.json")


def test_further_mistakes_are_counted():
    with pytest.raises(ContractError, match=r"'imgae': is unknown \(1 more like this\)"):
        PreprocessingContract.parse('{"source": "x", "imgae": {}, "volme": {}}')


def test_a_contract_without_any_kind_is_refused():
    with pytest.raises(ContractError, match="neither image nor volume nor scene is stated"):
        PreprocessingContract.parse('{"source": "x"}')


def test_a_file_that_is_no_contract_is_refused(tmp_path):
    with pytest.raises(ContractError, match=r"contract.json: does not exist. Give a contract.json"):
        PreprocessingContract.from_pretrained(tmp_path)
    (tmp_path / FILE_NAME).write_text("{")
    with pytest.raises(ContractError, match=r"contract.json: is not valid JSON"):
        PreprocessingContract.from_pretrained(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ContractError, match=r"contract.json: cannot be read"):
        PreprocessingContract.from_pretrained(tmp_path)
    (tmp_path / FILE_NAME).write_text("[1, 2]")
    with pytest.raises(ContractError, match=r"contract.json"):
        PreprocessingContract.from_pretrained(tmp_path)


def test_a_volume_is_refused_by_a_contract_for_images():
    contract = PreprocessingContract(image=ImageContract(size=(8, 8)), source="fundus photos")
    with pytest.raises(ContractError, match=r"scan.nii.gz: is a volume, and the contract knows images only \(fundus"):
        contract.prepare(volume(noise(1, 4, 4, 4)))


def test_an_image_is_refused_by_a_contract_for_volumes():
    with pytest.raises(ContractError, match=r"photo.png: is an image, and the contract knows volumes only"):
        PreprocessingContract(volume=CT, source="CT").prepare(image(np.zeros((3, 8, 8), np.uint8)))


def test_display_values_are_refused_where_the_contract_expects_hu():
    voxels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 8), dtype=np.uint8)
    with pytest.raises(
        ContractError, match=r"scan.nii.gz: holds display values 0-255 .* window is in Hounsfield units\. Give the"
    ):
        PreprocessingContract(volume=CT, source="CT").prepare(volume(voxels, unit="uint8"))


def test_both_kinds_become_float32_tensors_of_the_stated_size():
    flat = BOTH.prepare(image(np.zeros((3, 20, 20), np.uint8)))
    deep = BOTH.prepare(volume(noise(2, 5, 20, 20), names=("T1", "FLAIR")))
    assert (flat.tensor.dtype, tuple(flat.tensor.shape)) == (torch.float32, (3, 32, 48))
    assert (deep.tensor.dtype, tuple(deep.tensor.shape)) == (torch.float32, (2, 16, 24, 32))
    with pytest.raises(ContractError, match="image: has no slices and no place in a patient"):
        flat.slice_in_file(0)


def test_the_files_own_array_is_left_as_it_was():
    pixels = noise(3, 16, 16)
    before = pixels.copy()
    PreprocessingContract(image=ImageContract(size=(16, 16)), source="x").prepare(image(pixels, unit="unit"))
    assert np.array_equal(pixels, before)


def test_the_trainer_saves_the_contract_in_every_checkpoint(tmp_path):
    from transformers import Trainer, TrainingArguments

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixel_values):
            return {"loss": ((self.weight - pixel_values) ** 2).mean()}

    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    data = [{"pixel_values": torch.ones(1)}] * 8
    Trainer(Line(), arguments, train_dataset=data, processing_class=BOTH).train()
    for step in (1, 2):
        assert PreprocessingContract.from_pretrained(tmp_path / f"checkpoint-{step}") == BOTH
