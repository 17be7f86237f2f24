import json
import shlex
import sys

import pytest

from crossdim.errors import RecipeError
from crossdim.training.provenance import RunFolder, git_commit, read_log, stamp, versions
from crossdim.training.recipe import FinetuneRecipe, PretrainRecipe
from crossdim.training.recipe_files import load_recipe

FACTS = {"data": "abc", "processes": 1}


def started(path):
    folder = RunFolder(path, PretrainRecipe())
    folder.refuse_other_recipe()
    folder.refuse_other_facts(FACTS)
    folder.open_session(0)
    return folder


def test_a_run_says_what_it_was_made_of(tmp_path):
    folder = started(tmp_path / "run")
    folder.close_session("finished", selected_on="val")
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["kind"] == "pretrain"
    assert document["status"] == "finished"
    assert document["facts"] == FACTS
    assert document["selected_on"] == "val"
    (session,) = document["sessions"]
    assert session["start"] <= session["end"]
    assert {"python", "torch", "transformers", "crossdim"} <= session["versions"].keys()
    assert {"cores", "memory_gib", "processes"} <= session["hardware"].keys()
    assert session["command"] == shlex.join(sys.argv)
    assert load_recipe(tmp_path / "run" / "recipe.yaml", PretrainRecipe) == PretrainRecipe()


def test_every_session_is_listed(tmp_path):
    started(tmp_path / "run").close_session("interrupted")
    folder = RunFolder(tmp_path / "run", PretrainRecipe())
    folder.open_session(40)
    assert [session["from_step"] for session in folder.document["sessions"]] == [0, 40]
    assert not folder.finished


def test_the_same_run_may_go_on(tmp_path):
    started(tmp_path / "run")
    folder = RunFolder(tmp_path / "run", load_recipe(None, PretrainRecipe, ["hardware.workers=3"]))
    folder.refuse_other_recipe()
    folder.refuse_other_facts(FACTS)


def test_another_recipe_is_refused_with_the_key_and_both_values(tmp_path):
    started(tmp_path / "run")
    folder = RunFolder(tmp_path / "run", load_recipe(None, PretrainRecipe, ["optimisation.weight_decay=0.1"]))
    with pytest.raises(RecipeError, match=r"differs from this one \(optimisation.weight_decay: 0.05 → 0.1\)"):
        folder.refuse_other_recipe()


def test_other_data_are_refused(tmp_path):
    started(tmp_path / "run")
    with pytest.raises(RecipeError, match=r"differs from this one \(data: abc → xyz\)"):
        RunFolder(tmp_path / "run", PretrainRecipe()).refuse_other_facts(FACTS | {"data": "xyz"})


def test_another_kind_of_run_is_refused(tmp_path):
    started(tmp_path / "run")
    with pytest.raises(RecipeError, match="holds a run of kind 'pretrain'"):
        RunFolder(tmp_path / "run", FinetuneRecipe()).refuse_other_recipe()


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(RecipeError, match=r"holds other files and no run \(photo.jpg"):
        RunFolder(tmp_path, PretrainRecipe()).refuse_other_recipe()


def test_a_file_is_refused_as_a_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(RecipeError, match="is a file where a run's folder is needed"):
        RunFolder(tmp_path / "run", PretrainRecipe()).refuse_other_recipe()


def test_an_empty_folder_and_one_of_a_run_killed_at_once_are_fine(tmp_path):
    RunFolder(tmp_path, PretrainRecipe()).refuse_other_recipe()
    (tmp_path / "checkpoints").mkdir()
    RunFolder(tmp_path, PretrainRecipe()).refuse_other_recipe()


def test_the_log_holds_steps_that_ran_twice_once(tmp_path):
    folder = started(tmp_path / "run")
    for step in (10, 20, 30):
        folder.append_log({"step": step, "loss": float(step)})
    RunFolder(folder.path, PretrainRecipe()).open_session(20)
    folder.append_log({"step": 30, "loss": -1.0})
    assert [(line["step"], line["loss"]) for line in folder.read_log()] == [(10, 10.0), (20, 20.0), (30, -1.0)]


def test_a_line_of_the_log_that_a_kill_cut_short_does_not_spoil_the_next(tmp_path):
    folder = started(tmp_path / "run")
    folder.append_log({"step": 1})
    with folder.log.open("a") as file:
        file.write('{"step": 2, "lo')
    RunFolder(folder.path, PretrainRecipe()).open_session(1)
    folder.append_log({"step": 2})
    assert read_log(folder.log) == [{"step": 1}, {"step": 2}]


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert read_log(tmp_path / "log.jsonl") == []


def test_processes_that_do_not_write_leave_no_trace(tmp_path):
    folder = RunFolder(tmp_path / "run", PretrainRecipe(), writes=False)
    folder.open_session(0)
    folder.append_log({"step": 1})
    folder.update(x=1)
    folder.close_session("finished")
    assert not folder.path.exists()


def test_the_stamp_notices_a_changed_file(toy, tmp_path):
    before = stamp(toy)
    assert stamp(toy) == before
    path = tmp_path / "a.png"
    record = toy.records[0].model_copy(update={"paths": (str(path),)})
    changing = type(toy)(toy.header, (record,))
    path.write_bytes(b"1")
    first = stamp(changing)
    path.write_bytes(b"22")
    assert stamp(changing) != first


def test_versions_name_the_packages_that_numbers_depend_on():
    assert versions()["torch"]


def test_the_commit_is_this_repository_s_or_none():
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("+changes")) == 40
