"""When to look next."""

from __future__ import annotations

import pytest

from magichour_provider.schedule import Schedule


def evenly() -> float:
    return 0.5


@pytest.mark.parametrize(
    ("age", "wait"),
    [
        (0, 50),  # first when it may just be done
        (20, 30),
        (28, 22),
        (40, 22),  # never sooner than a beat
        (1000, 22),
        (float("inf"), 22),  # nobody knows when it was submitted
    ],
)
def test_the_first_look_waits_and_then_there_is_a_beat(age: float, wait: float) -> None:
    assert Schedule().next_look(age, jitter=evenly) == pytest.approx(wait)


def test_all_of_it_scales_with_the_usual_render_time() -> None:
    slow = Schedule(median_seconds=2 * Schedule.median_seconds)
    for age in (0, 10, 500):
        assert slow.next_look(2 * age, jitter=evenly) == pytest.approx(
            2 * Schedule().next_look(age, jitter=evenly)
        )


@pytest.mark.parametrize("age", [0, 100])
def test_a_given_interval_holds_from_the_first_look_on(age: float) -> None:
    assert Schedule(poll_interval=0.5).next_look(age, jitter=evenly) == pytest.approx(0.5)


@pytest.mark.parametrize(("random", "wait"), [(0.0, 9), (0.5, 10), (1.0, 11)])
def test_jitter_is_a_tenth_each_way(random: float, wait: float) -> None:
    assert Schedule(poll_interval=10).next_look(0, jitter=lambda: random) == pytest.approx(wait)


def test_a_burst_does_not_look_in_step() -> None:
    assert len({Schedule().next_look(0) for _ in range(20)}) > 1
