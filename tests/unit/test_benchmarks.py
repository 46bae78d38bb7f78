"""What the benchmarks say about noise, and the simulation of the schedule."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import nights, schedule
from benchmarks.harness import Goal, Sample, fresh, goal_table, interleaved
from benchmarks.table import Table


def test_a_number_is_shown_with_its_spread_and_its_ratio_to_ours() -> None:
    ours = Sample((100.0, 110.0, 90.0))
    assert ours.beside(ours) == "100 ±10% (×1.00)"
    assert Sample((300.0, 330.0, 270.0)).beside(ours, digits=1) == "300.0 ±10% (×3.00)"


def test_what_differs_by_a_third_is_marked() -> None:
    assert Sample((100.0, 129.0)).show().startswith("114")
    assert Sample((100.0, 120.0, 140.0)).show().startswith("~120")


def test_a_ratio_that_the_rounds_do_not_agree_about_is_marked() -> None:
    assert Sample((99.0, 104.0, 103.0)).beside(Sample((100.0, 100.0, 100.0))) == "103 ±2% (≈1.03)"


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that is slow for a while is slow for both."""
    assert Sample((2.0, 20.0, 2.0)).over(Sample((1.0, 10.0, 1.0))).spread == 0


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ((0.8, 0.85), "reached"),
        ((0.86, 0.9), "MISSED"),
        ((0.8, 0.9), "too noisy to tell"),
    ],
)
def test_a_goal_is_judged_only_when_all_rounds_agree(rounds: tuple[float, ...], said: str) -> None:
    assert Goal("polls", 0.85, Sample(rounds)).reached == said


def test_a_goal_that_was_not_measured_is_not_reached() -> None:
    assert goal_table([Goal("polls", 0.85, None)]).rows == [("polls", "0.85", "–", "not measured")]


def test_the_peers_take_turns_and_who_gives_up_is_not_asked_again() -> None:
    asked: list[str] = []

    def answering(name: str, *answers: float | None) -> Callable[[], dict[str, float] | None]:
        left = iter(answers)

        def measure() -> dict[str, float] | None:
            asked.append(name)
            return None if (answer := next(left)) is None else {"cpu": answer}

        return measure

    cases = {"a": answering("a", 1, 2, 3), "b": answering("b", 1, None), "c": answering("c", 4, 5, 6)}
    found = interleaved(cases, rounds=3)
    assert asked == ["a", "b", "c", "c", "b", "a", "a", "c"]
    assert found == {"a": {"cpu": Sample((1, 2, 3))}, "c": {"cpu": Sample((4, 5, 6))}}


MEASURED = """
import os
def process(): return {"id": os.getpid()}
def broken(): raise RuntimeError("the peer is not installed")
"""


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with two measurements."""
    (tmp_path / "measured.py").write_text(MEASURED)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("measured")


def test_a_measurement_comes_from_a_process_of_its_own(measured: Any, tmp_path: Path) -> None:
    found = fresh(measured.process, environment={"PYTHONPATH": str(tmp_path)})
    assert found is not None
    assert found["id"] not in (0, os.getpid())


def test_a_measurement_that_fails_ends_the_run_and_says_why(measured: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="the peer is not installed"):
        fresh(measured.broken, environment={"PYTHONPATH": str(tmp_path)})


def test_a_table_is_markdown() -> None:
    table = Table("Title", ["", "cost"], [("ours", 1), ("theirs", 100)], ["a note"])
    assert str(table) == (
        "**Title**\n\n|        | cost |\n|--------|------|\n| ours   | 1    |\n| theirs | 100  |\n\n- a note"
    )


def test_only_the_rows_own_place_on_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- begin a -->\nold\n<!-- end a -->\n<!-- begin b -->\n<!-- end b -->\n")
    monkeypatch.setattr(command, "PAGE", page)
    command.write_down("a", r"new \1")
    assert page.read_text() == (
        "before\n<!-- begin a -->\nnew \\1\n<!-- end a -->\n<!-- begin b -->\n<!-- end b -->\n"
    )
    with pytest.raises(SystemExit, match="begin c"):
        command.write_down("c", "new")


def test_the_page_has_a_place_for_every_row() -> None:
    page = command.PAGE.read_text("utf-8")
    assert [
        name for name in command.ROWS | command.BIG_ROWS if page.count(f"<!-- begin {name} -->") != 1
    ] == []


# --- schedule ---


def test_each_job_is_polled_until_it_has_ended() -> None:
    """Polls at 0, 5, 10 see an end at 7; a poll at the very end sees it."""
    watched = [schedule.Watched.until(ended, schedule.every(5)) for ended in (7.0, 10.0, 0.5)]
    assert [(one.polls, one.last_but_one, one.last) for one in watched] == [(3, 5, 10), (3, 5, 10), (2, 0, 5)]
    found = schedule.summary(watched)
    assert found["polls"] == pytest.approx(8 / 3)
    assert found["mean lag"] == pytest.approx((3 + 0 + 4.5) / 3)


def test_the_vendors_advice_is_followed() -> None:
    assert list(islice(schedule.vendors_advice(), 9)) == pytest.approx(
        [0, 3, 7.5, 14.25, 24.375, 39.5625, 62.34375, 92.34375, 122.34375]
    )


@pytest.mark.parametrize("shape", schedule.SHAPES)
def test_render_times_have_the_median_that_was_asked_for(shape: str) -> None:
    times = sorted(schedule.render_times(shape, 174, 1001, seed=1))
    assert times[500] == pytest.approx(174)
    assert min(times) > 0


def test_known_results_come_out() -> None:
    """The same simulation made elsewhere, with lognormal render times around the vendor's median."""
    times = schedule.render_times(schedule.USUAL, 174, 20_000, seed=1)
    fixed = schedule.summary(schedule.Watched.until(ended, schedule.every(5)) for ended in times)
    advice = schedule.summary(schedule.Watched.until(ended, schedule.vendors_advice()) for ended in times)
    assert list(fixed.values()) == pytest.approx([41, 2.5, 4.75], rel=0.03)
    assert list(advice.values()) == pytest.approx([12, 15, 28.5], rel=0.03)


def test_a_process_that_has_learned_polls_like_one_that_knew() -> None:
    times = schedule.render_times(schedule.USUAL, 20, 2000, seed=1)
    learned = schedule.summary(islice(schedule.learning(times), 60, None))
    known = schedule.summary(
        schedule.Watched.until(ended, schedule.POLICIES[schedule.US](20)) for ended in times
    )
    assert list(learned.values()) == pytest.approx(list(known.values()), rel=0.15)


def test_the_limit_is_where_it_can_be_calculated() -> None:
    """Uniform between 0 and 1: ½ (∫ √(1-t) dt)² = 2/9; an even beat, of 1/n, makes n/2 polls and 1/2n lag."""
    times = [number / 10_000 for number in range(10_001)]
    assert schedule.least_product(times) == pytest.approx(2 / 9, rel=0.01)
    even = schedule.summary(schedule.Watched.until(ended, schedule.every(0.01)) for ended in times)
    assert even["polls"] * even["mean lag"] > schedule.least_product(times)


@pytest.mark.parametrize("median", schedule.MEDIANS)
def test_without_any_knowledge_the_schedule_is_no_worse_than_the_vendors_advice(median: float) -> None:
    times = schedule.render_times(schedule.USUAL, median, 2000, seed=1)
    ours, advice = (
        schedule.summary(schedule.Watched.until(ended, schedule.POLICIES[policy](median)) for ended in times)
        for policy in (schedule.BEGINNER, schedule.ADVICE)
    )
    assert all(ours[what] <= 1.05 * advice[what] for what in schedule.MEASURES)


# --- nights ---


def test_a_job_of_a_night_is_polled_until_its_end_is_seen() -> None:
    jobs = [nights.Job(nights.START + at, 5, 60, 60) for at in (0, 10_000)]
    night = nights.Night.of(jobs, knowing=True)
    assert 2 <= night.polls / len(jobs) <= 5
    assert 0 < night.lag / len(jobs) < 15


def test_a_night_whose_triggerer_is_restarted_ends_too() -> None:
    restart = nights.START + nights.RESTART * nights.HOURS * 3600
    (job,) = jobs = [nights.Job(restart - 30, 5, 60, 60)]
    assert job.submitted_at < restart < job.submitted_at + job.seconds
    night = nights.Night.of(jobs, knowing=False)
    assert night.polls >= 2
    assert 0 < night.lag < 30
