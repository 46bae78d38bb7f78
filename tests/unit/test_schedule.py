"""When to look next."""

from __future__ import annotations

import pytest

from magichour_provider.api.polling import PollLimiter, PollSchedule


@pytest.fixture(autouse=True)
def evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """No jitter, and of two that come late the one in the middle."""
    monkeypatch.setattr("random.random", lambda: 0.5)


def usual(median_seconds: float) -> PollSchedule:
    return PollSchedule(None, PollLimiter(median_seconds=median_seconds))


@pytest.mark.parametrize(("median", "first"), [(20, 13.8), (174, 65.7), (1200, 263.8)])
def test_the_first_look_is_when_it_may_just_be_done(median: float, first: float) -> None:
    assert usual(median).first_poll(0) == pytest.approx(first, abs=0.1)
    assert usual(median).first_poll(5) == pytest.approx(first - 5, abs=0.1)


@pytest.mark.parametrize(
    ("age", "wait"),
    [
        (0, 36.1),  # hardly any has ended
        (61, 27.1),
        (122, 18.0),  # many end now
        (1000, 18.0),
        (float("inf"), 18.0),  # nobody knows when it was submitted
    ],
)
def test_then_there_is_a_beat_that_gets_quicker(age: float, wait: float) -> None:
    assert PollSchedule().next_poll(age) == pytest.approx(wait, abs=0.1)


def test_whoever_comes_late_does_not_know_when_the_last_look_was() -> None:
    assert PollSchedule().first_poll(500) == pytest.approx(PollSchedule().next_poll(500) / 2)


@pytest.mark.parametrize("age", [0, 0.2])
def test_a_given_interval_holds_from_the_first_look_on(age: float) -> None:
    assert PollSchedule(poll_interval=0.5).first_poll(age) == pytest.approx(0.5 - age)
    assert PollSchedule(poll_interval=0.5).next_poll(age) == pytest.approx(0.5)


@pytest.mark.parametrize(("random", "wait"), [(0.0, 9), (0.5, 10), (1.0, 11)])
def test_jitter_is_a_tenth_each_way(random: float, wait: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: random)
    assert PollSchedule(poll_interval=10).next_poll(0) == pytest.approx(wait)


def test_one_slow_render_does_not_slow_the_looks_at_all_others() -> None:
    limiter = PollLimiter(median_seconds=20)
    limiter.renders["video"].record_end(after=900, before=1000)
    assert limiter.renders["video"].median_seconds == 20
