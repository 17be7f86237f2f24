"""The page of results says of stored boxes what they are worth, and refuses to compare what does not compare."""

import json
from pathlib import Path

import pytest

from benchmarks import tables_detection
from crossdim.errors import RecipeError

PRETRAINING = ["model.preset=tiny", "optimisation.steps=400", "masking.alignment=complement"]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(tables_detection, "RESAMPLES", 100)


def make_run(arm: str, seed: int, found: int, scenes: int = 4, classes: tuple[str, ...] = ("object",)) -> dict:
    """Return a run that finds the boxes of the first ``found`` scenes and misses those of the others."""
    content = {}
    for number in range(scenes):
        box = [0.1 * number, 0.2, 0.1, 0.1, 0.2, 0.2, 0.3]
        missed = [9.0, *box[1:]]
        chances = [float(name == classes[number % len(classes)]) for name in classes]
        content[f"s{number}"] = {
            "boxes": [{"box": box if number < found else missed, "objectness": 0.9, "probabilities": chances}],
            "truth": [{"box": box, "label": classes[number % len(classes)]}],
        }
    image = arm.endswith("with image")
    return {
        "arm": arm,
        "seed": seed,
        "config": {
            "seed": seed,
            "transfer": "none" if arm.startswith("scratch") else "everything",
            "model": {"preset": "tiny", "image": image},
            "contract": {"num_points": 512},
            "batch": {"scenes": 8},
            "optimisation": {"steps": 400},
        },
        "pretraining": PRETRAINING,
        "training_records": [36],
        "test_records": scenes,
        "data_sha256": ["0"],
        "threads": 1,
        "classes": list(classes),
        "scenes": content,
        "seconds": 60.0,
    }


def save(folder: Path, *runs: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        (folder / f"{run['arm'].replace(' ', '-')}-{run['seed']}.json").write_text(json.dumps(run), encoding="utf-8")


def lines_of(page: str, start: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(start)]


def test_scores_of_stored_boxes_are_those_of_the_protocol():
    run = tables_detection.scored(make_run("scratch", 0, found=2))
    assert run.report["boxes"] == 4
    assert run.score("AR25")["value"] == run.score("AR50")["value"] == 0.5


def test_scenes_without_boxes_found_or_labelled_are_measured_too():
    run = make_run("scratch", 0, found=4)
    run["scenes"]["s0"]["boxes"] = []
    run["scenes"]["s1"]["truth"] = []
    assert tables_detection.scored(run).score("AR50")["value"] == pytest.approx(2 / 3)


def test_the_page_tells_a_clear_difference_from_noise(tmp_path):
    runs = [make_run(arm, seed, found) for seed in range(3) for arm, found in (("scratch", 0), ("complement", 4))]
    image = [make_run("scratch with image", seed, 0) for seed in range(3)]
    save(tmp_path / "tables", *runs, *image, make_run("clusters", 0, found=4))
    page = tables_detection.detection(tmp_path)
    assert lines_of(page, "- `complement − scratch`") == [
        "- `complement − scratch`, AP25: the interval lies above zero in 3 of 3 seeds; "
        "AP50: the interval lies above zero in 3 of 3 seeds."
    ]
    assert lines_of(page, "- `scratch with image − scratch`") == [
        "- `scratch with image − scratch`, AP25: **noise** (3 seeds); AP50: **noise** (3 seeds)."
    ]
    assert "| complement − scratch | 0 | +1.000 [+1.000, +1.000] | +1.000 [+1.000, +1.000] |" in page
    assert "| complement − clusters | 2 | +0.000 [+0.000, +0.000] |" in page
    assert "| AP25 | 0.85 | 1.000 ± 0.000 | complement | yes | 1.000 (complement) | 1.000 |" in page
    assert "| complement | 3 | 1.000 ± 0.000 |" in page


def test_a_difference_is_the_first_named_arm_minus_the_second():
    ours, theirs = (tables_detection.scored(make_run(arm, 0, found)) for arm, found in (("scratch", 0), ("uniform", 4)))
    assert tables_detection.difference(ours, theirs, 0.25).value == -1


def test_fitted_boxes_are_an_arm_beside_what_was_found_and_reach_no_aim_in_its_name(tmp_path):
    runs = [make_run("scratch", seed, 2) | {"fitted": make_run("scratch", seed, 4)["scenes"]} for seed in range(3)]
    save(tmp_path / "tables", *runs)
    page = tables_detection.detection(tmp_path)
    assert lines_of(page, "| scratch | 3 |")[0].startswith("| scratch | 3 | 0.5")
    assert lines_of(page, "| scratch, fitted | 3 |")[0].startswith("| scratch, fitted | 3 | 1.000 ± 0.000")
    assert "| scratch, fitted − scratch | 0 | +0.5" in page
    assert "| AP50 | 0.55 | 1.000 ± 0.000 | scratch, fitted | yes | 0.500 (scratch) | – |" in page


def test_the_margins_that_were_tried_stand_behind_the_tables(tmp_path):
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"margin_m": margin, "AP25": estimate, "AP50": estimate} for margin in (None, 0.015)]
    save(tmp_path / "tables", make_run("scratch", 0, 2))
    (tmp_path / "margins.json").write_text(json.dumps({"test_records": 60, "margins": rows}), encoding="utf-8")
    page = tables_detection.detection(tmp_path)
    assert "chosen on 60 drawn table tops" in page
    assert lines_of(page, "| 1.5 cm") == ["| 1.5 cm | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] |"]
    assert len(lines_of(page, "| as found")) == 1


def test_a_recipe_written_before_a_key_was_added_is_compared_with_one_that_has_it(tmp_path):
    later = make_run("complement", 0, 1)
    later["config"]["evaluation"] = {"tighten_m": None}
    save(tmp_path / "tables", make_run("scratch", 0, 1), later)
    assert "complement" in tables_detection.detection(tmp_path)


def test_missing_arms_and_seeds_are_named(tmp_path):
    save(tmp_path / "tables", make_run("scratch", 0, 2), make_run("complement", 1, 2))
    page = tables_detection.detection(tmp_path)
    assert "Not run: `labelled synthetic`, `scratch with image`, `complement with image`." in page
    assert "Fewer seeds than the 3 planned: `scratch`: 1, `complement`: 1." in page
    assert tables_detection.NO_PAIR in page


def test_rooms_have_a_row_for_each_class_of_the_best_arm(tmp_path):
    classes = ("bed", "chair")
    save(
        tmp_path / "rooms",
        *(make_run(arm, 0, found, classes=classes) for arm, found in (("scratch", 1), ("uniform", 4))),
    )
    page = tables_detection.detection(tmp_path)
    assert "By class, `uniform`" in page
    assert lines_of(page, "| bed") == ["| bed | 2 | 1.000 | 1.000 | 1.000 | 1.000 |"]


def test_without_a_run_and_with_held_out_runs_alone_there_is_no_section(tmp_path):
    save(tmp_path / "tables-held-out-other", make_run("scratch", 0, 1))
    save(tmp_path / "tables", make_run("clusters", 0, 1))
    assert tables_detection.detection(tmp_path) == ""


def test_runs_of_different_recipes_are_not_compared(tmp_path):
    longer = make_run("complement", 0, 1)
    longer["config"]["optimisation"]["steps"] = 800
    save(tmp_path / "tables", make_run("scratch", 0, 1), longer)
    with pytest.raises(RecipeError, match="differ in recipe, pre-training or scenes"):
        tables_detection.detection(tmp_path)


def test_runs_on_other_scenes_are_not_compared():
    ours, theirs = (tables_detection.scored(make_run("scratch", 0, 1, scenes=count)) for count in (4, 3))
    with pytest.raises(RecipeError, match="measured on other scenes"):
        tables_detection.difference(ours, theirs, 0.5)
