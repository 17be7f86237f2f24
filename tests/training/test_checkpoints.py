import shutil
import threading

from crossdim.training.checkpoints import is_complete, last_complete, mark_complete, remove_incomplete, step_of


def checkpoint(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    for name in ("model.safetensors", "trainer_state.json"):
        (path / name).write_text(f"{name} of {step}")
    if complete:
        mark_complete(path)
    return path


def test_the_newest_complete_checkpoint_is_found_by_number_not_by_name(tmp_path):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    assert last_complete(tmp_path) == tmp_path / "checkpoint-10"


def test_a_checkpoint_without_its_marker_is_never_picked(tmp_path):
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 4, complete=False)
    assert last_complete(tmp_path) == tmp_path / "checkpoint-2"


def test_a_checkpoint_with_a_missing_or_shortened_file_is_never_picked(tmp_path):
    good, missing, short = (checkpoint(tmp_path, step) for step in (1, 2, 3))
    (missing / "model.safetensors").unlink()
    (short / "model.safetensors").write_text("x")
    assert [is_complete(path) for path in (good, missing, short)] == [True, False, False]
    assert last_complete(tmp_path) == good


def test_a_marker_cut_short_counts_as_none(tmp_path):
    path = checkpoint(tmp_path, 1)
    (path / "complete.json").write_text('{"model.sa')
    assert not is_complete(path)


def test_half_written_checkpoints_are_removed_and_nothing_else_is(tmp_path):
    good, bad = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2, complete=False)
    (tmp_path / "runs").mkdir()
    assert remove_incomplete(tmp_path) == [bad]
    assert sorted(tmp_path.iterdir()) == [good, tmp_path / "runs"]


def test_a_folder_without_checkpoints_has_no_last_one(tmp_path):
    assert last_complete(tmp_path) is None
    assert last_complete(tmp_path / "absent") is None
    assert remove_incomplete(tmp_path / "absent") == []


def test_the_step_is_in_the_name(tmp_path):
    assert step_of(tmp_path / "checkpoint-12") == 12
    assert step_of(tmp_path / "checkpoint-12.tmp") == -1


def test_checkpoints_that_another_process_is_deleting_are_passed_over(tmp_path):
    stop = threading.Event()

    def rewrite():
        while not stop.is_set():
            shutil.rmtree(checkpoint(tmp_path, 1))

    other = threading.Thread(target=rewrite)
    other.start()
    try:
        assert {last_complete(tmp_path) for _ in range(2000)} <= {None, tmp_path / "checkpoint-1"}
    finally:
        stop.set()
        other.join()
