from collections import Counter

import pytest

from crossdim.training.schedule import AlternatingSchedule, Draw, MixedSchedule, SortedSchedule, Stream

IMAGES, VOLUMES = list(range(10)), list(range(10, 14))


def streams(seed=0):
    return {"image": Stream(IMAGES, seed, "image"), "volume": Stream(VOLUMES, seed, "volume")}


def test_a_stream_goes_through_every_record_once_before_any_comes_again():
    stream = Stream(IMAGES, 3, "image")
    for cycle in range(3):
        draws = stream.take(cycle * 10, 10)
        assert sorted(draw.place for draw in draws) == IMAGES
        assert {draw.cycle for draw in draws} == {cycle}


def test_cycles_seeds_and_kinds_are_shuffled_differently():
    orders = [
        [draw.place for draw in Stream(IMAGES, seed, kind).take(start, 10)]
        for seed, kind, start in ((0, "image", 0), (0, "image", 10), (1, "image", 0), (0, "volume", 0))
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_a_piece_of_a_stream_does_not_depend_on_what_was_taken_before():
    whole = Stream(IMAGES, 0, "image").take(0, 35)
    assert Stream(IMAGES, 0, "image").take(17, 9) == whole[17:26]


def test_every_mixed_batch_holds_the_chosen_number_of_images_and_volumes():
    schedule = MixedSchedule(streams(), {"image": 3, "volume": 1})
    schedule.set_length(epochs=2.0, steps=None)
    assert schedule.steps_per_epoch == 4
    batches = list(schedule)
    assert len(batches) == len(schedule) == 8
    assert all(Counter(draw.place in IMAGES for draw in batch) == {True: 3, False: 1} for batch in batches)


def test_a_mixed_pass_sees_every_record_of_both_kinds():
    schedule = MixedSchedule(streams(), {"image": 2, "volume": 2}, group=2)
    schedule.set_length(epochs=1.0, steps=None)
    assert {draw.place for batch in schedule for draw in batch} == {*IMAGES, *VOLUMES}


def test_a_kind_with_size_zero_is_left_out():
    schedule = MixedSchedule(streams(), {"image": 5, "volume": 0})
    schedule.set_length(epochs=1.0, steps=None)
    assert len(schedule) == 2
    assert {draw.place for batch in schedule for draw in batch} == set(IMAGES)


def test_alternate_epochs_begin_with_volumes_and_never_mix():
    schedule = AlternatingSchedule(streams(), {"image": 5, "volume": 2})
    schedule.set_length(epochs=4.0, steps=None)
    kinds = ["".join({"i" if draw.place in IMAGES else "v" for draw in batch}) for batch in schedule]
    assert kinds == ["v", "v", "i", "i"] * 2
    assert schedule.epoch_at(3) == pytest.approx(1.5)
    assert schedule.epoch_at(8) == 4


def test_an_odd_number_of_alternate_epochs_ends_after_volumes():
    schedule = AlternatingSchedule(streams(), {"image": 2, "volume": 2})
    schedule.set_length(epochs=3.0, steps=None)
    assert len(schedule) == 2 + 5 + 2


def test_several_processes_are_in_the_same_alternate_epoch_in_every_step():
    schedule = AlternatingSchedule(streams(), {"image": 3, "volume": 3}, group=2)
    schedule.set_length(epochs=4.0, steps=None)
    batches = list(schedule)
    for step in range(0, len(batches), 2):
        assert len({draw.place in IMAGES for batch in batches[step : step + 2] for draw in batch}) == 1


def test_a_sorted_pass_sees_every_record_once_in_batches_of_one_kind():
    schedule = SortedSchedule(streams(), {"image": 4, "volume": 3}, seed=1)
    schedule.set_length(epochs=1.0, steps=None)
    batches = list(schedule)
    assert sorted(draw.place for batch in batches for draw in batch) == [*IMAGES, *VOLUMES]
    assert all(len({draw.place in IMAGES for draw in batch}) == 1 for batch in batches)
    assert sorted(map(len, batches)) == [1, 2, 3, 4, 4]


def test_sorted_passes_differ_in_the_order_of_their_batches():
    schedule = SortedSchedule(streams(), {"image": 1, "volume": 1})
    schedule.set_length(epochs=2.0, steps=None)
    kinds = [batch[0].place in IMAGES for batch in schedule]
    assert kinds[:14] != kinds[14:]


@pytest.mark.parametrize("kind", [MixedSchedule, AlternatingSchedule, SortedSchedule])
def test_a_batch_depends_on_its_place_only(kind):
    schedule, again = (kind(streams(), {"image": 3, "volume": 2}) for _ in range(2))
    schedule.set_length(epochs=None, steps=12)
    assert [again.batch(place) for place in reversed(range(12))][::-1] == list(schedule)


def test_a_draw_carries_its_cycle():
    assert MixedSchedule(streams(), {"image": 10, "volume": 0}).batch(3)[0] == Draw(
        3, Stream(IMAGES, 0, "image").take(30, 1)[0].place
    )


def test_the_length_of_a_run_is_in_steps_or_in_passes():
    schedule = MixedSchedule(streams(), {"image": 5, "volume": 1}, group=2)
    schedule.set_length(epochs=None, steps=7)
    assert (schedule.steps, len(schedule)) == (7, 14)
    schedule.set_length(epochs=2.5, steps=None)
    assert schedule.steps == 5
    assert schedule.epoch_at(5) == 2.5
