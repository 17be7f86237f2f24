import json

import pytest

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.phantom import make_phantoms
from tests.datasets.anatomy_toys import label_map, save


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    make_phantoms(folder, 20, 24)
    return folder


def command(phantoms, out, *more):
    return ("prepare", "anatomy-qa", "--labels", phantoms / "labels", "--names", phantoms / "names.json",
            "--unnamed", "ignore", "--synthetic", 1, "--fields-of-view", 2, "--out", out, *more)  # fmt: skip


def test_questions_are_made_counted_and_measured_blind(crossdim, phantoms, tmp_path):
    result = crossdim(*command(phantoms, tmp_path / "qa", "--types", "presence,slices", "--audit"))
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "closed questions presence: train" in text
    assert "so that answers are equally frequent" in text
    assert "test questions right from their words alone, chance 50.0%" in text
    manifest = Manifest.load(tmp_path / "qa" / "manifest.jsonl")
    assert {t.type for r in manifest.records for d in r.dialogues for t in d.turns} == {"presence", "slices"}


def test_json_tells_the_same_and_the_same_seed_the_same_questions(crossdim, phantoms, tmp_path):
    hashes = []
    for seed in (0, 0, 1):
        result = crossdim(*command(phantoms, tmp_path / str(len(hashes)), "--seed", seed, "--json"))
        summary = json.loads(result.stdout)
        assert summary["questions"]["closed"]["presence"]["train"] > 10
        assert any(note.startswith("presence: 50.0% of") for note in summary["notes"])
        hashes.append(summary["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--types", "presense"), "question type 'presense': is unknown. Did you mean 'presence'"),
        (("--synthetic", 0), "phantom_0000.nii.gz: has no image. Give images, or ask for synthetic contrasts"),
        (("--unnamed", "refuse"), "holds 1 values that have no name (1). Name them, or ask about the named ones only"),
        (("--names", "absent.json"), "absent.json: cannot be read as text"),
        (("--coverage", 0.5, 0.2), "coverage 0.5 0.2, lateral 0.5: are not shares, the first rising"),
    ],
)
def test_what_is_wrong_is_one_line(crossdim, phantoms, tmp_path, change, message):
    result = crossdim(*command(phantoms, tmp_path / "qa", *change))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_map_that_does_not_fit_its_image_is_one_line(crossdim, tmp_path):
    body = label_map()
    save(tmp_path / "labels" / "a.nii.gz", body)
    save(tmp_path / "images" / "a.nii.gz", label_map("SPL"))
    (tmp_path / "names.json").write_text(json.dumps(body.names))
    result = crossdim("prepare", "anatomy-qa", tmp_path, "--names", tmp_path / "names.json", "--out", tmp_path / "qa")
    assert result.exit_code == 2
    assert "a.nii.gz: is 24 x 20 x 16, and its image " in result.stderr
