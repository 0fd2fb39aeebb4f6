"""Times of what waits, from speeds that were measured with so many pictures at once."""

from __future__ import annotations

import pytest

from diptych.schedule.heart import Silence
from diptych.schedule.speeds import Speeds, Work

KEY = ("m", "64x64")


def test_a_speed_belongs_to_how_many_were_denoised_together() -> None:
    speeds = Speeds()
    assert speeds.of(KEY, 1) is None
    speeds.take("m", "64x64", 0.10)
    speeds.take("m", "64x64*8", 0.04)
    assert [speeds.of(KEY, together) for together in (1, 7, 8, 100)] == [0.10, 0.10, 0.04, 0.04]
    only_many = Speeds()
    only_many.learn(*KEY, 11, 0.04)
    assert only_many.of(KEY, 1) == 0.04


def test_the_time_knows_the_batch() -> None:
    speeds = Speeds()
    speeds.learn(*KEY, 1, 0.10)
    speeds.learn(*KEY, 8, 0.04)
    eight = [Work(*KEY, 1, 20.0)] * 8
    assert speeds.seconds(eight, batch=8) == pytest.approx(8 * 20 * 0.04)
    assert speeds.seconds(eight, batch=1) == pytest.approx(8 * 20 * 0.10)
    # One picture of twenty steps in a batch of eight takes as long as the batch.
    assert speeds.alone(eight[0], beside=8, batch=8) == pytest.approx(20 * 8 * 0.04)
    assert speeds.alone(eight[0], beside=1, batch=8) == pytest.approx(20 * 0.10)


def test_nothing_is_made_up() -> None:
    speeds = Speeds()
    speeds.learn(*KEY, 1, 0.10)
    assert speeds.seconds([Work(*KEY, 1, 5.0), Work("other", "64x64", 1, 5.0)], 8) is None
    assert speeds.alone(Work("m", "32x32", 1, 5.0), 1, 8) is None
    assert speeds.seconds([], 8) == 0.0


def test_a_silent_gateway_is_dead_and_one_that_counts_is_not() -> None:
    silence = Silence(lease_seconds=10, beat_seconds=2)
    found = [silence.look({"counts": number, "silent": 5}, 2.0 * number) for number in range(8)]
    assert found[:6] == [{}] * 6
    assert found[6:] == [{"silent": 5}] * 2


def test_a_pause_of_the_observer_kills_nobody() -> None:
    silence = Silence(lease_seconds=10, beat_seconds=2)
    silence.look({"other": 5}, 0.0)
    assert silence.look({"other": 5}, 10_000.0) == {}  # both may have slept
    assert silence.look({"other": 6}, 10_002.0) == {}
    assert silence.look({"other": 6}, 10_004.0) == {}


def test_who_comes_and_goes_is_forgotten() -> None:
    silence = Silence(lease_seconds=1, beat_seconds=1)
    for now in (0.0, 1.0):
        silence.look({"a": 1}, now)
    silence.look({}, 2.0)
    assert silence.look({"a": 1}, 3.0) == {}
