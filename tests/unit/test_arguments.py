"""Each argument with each odd value: refused at DAG parse, or put into the form in which it is used."""

from __future__ import annotations

import math
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Param

from magichour_provider.exceptions import InvalidInput
from magichour_provider.operators import TalkingPhotoOperator, VoiceGeneratorOperator
from magichour_provider.sensors import TalkingPhotoSensor
from magichour_provider.task.arguments import checked, flag, job_id, number, path, seconds, text

REFUSED = InvalidInput
TEMPLATE = "{{ params.x }}"
VIDEO: dict[str, Any] = {
    "image_file_path": "/data/me.jpg",
    "audio_file_path": "/data/me.mp3",
    "end_seconds": 1,
}
MAKES: dict[str, Any] = {
    "video": lambda **given: TalkingPhotoOperator(task_id="t", **VIDEO | given),
    "voice": lambda **given: VoiceGeneratorOperator(task_id="t", prompt="Hello.", voice_name="Ada", **given),
    "sensor": lambda **given: TalkingPhotoSensor(task_id="t", **{"job_id": "cm1"} | given),
}

# What each check makes of each value; None is the default, whatever that is.
VALUES: list[Any] = [None, "", " ", "None", 0, -1, math.nan, math.inf, True, False, "30", "x", 30, [30], {}]
CHECKED: dict[Any, list[Any]] = {
    number: ["default", *[REFUSED] * 9, 30.0, REFUSED, 30.0, REFUSED, REFUSED],
    seconds: ["default", *[REFUSED] * 9, 30.0, REFUSED, 30.0, REFUSED, REFUSED],
    flag: ["default", *[REFUSED] * 7, True, False, *[REFUSED] * 5],
    text: ["default", *[REFUSED] * 9, "30", "x", *[REFUSED] * 3],
    job_id: ["default", *[REFUSED] * 3, "0", "-1", *[REFUSED] * 4, "30", "x", "30", REFUSED, REFUSED],
    path: ["default", *[REFUSED] * 9, "30", "x", *[REFUSED] * 3],
}


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [(check, value, made) for check, row in CHECKED.items() for value, made in zip(VALUES, row, strict=True)],
    ids=lambda part: getattr(part, "__name__", repr(part)),
)
def test_an_odd_value_is_refused_or_put_into_its_form(check: Any, value: Any, expected: Any) -> None:
    if expected is REFUSED:
        with pytest.raises(InvalidInput, match=r"^\w+="):
            checked({"field": (check, "default")}, {"field": value})
        return
    made = checked({"field": (check, "default")}, {"field": value})["field"]
    assert (made, type(made)) == (expected, type(expected))


@pytest.mark.parametrize("value", [sys.maxsize, 1e12, "1e300", 10**400, timedelta.max, timedelta(days=3651)])
def test_seconds_that_no_date_can_bear_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^timeout="):
        seconds("timeout", value)


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (seconds, timedelta(minutes=2), 120.0),
        (seconds, " 1.5 ", 1.5),
        (text, "\n  mh \n", "mh"),
        (path, "\n  /out/v.mp4 \n", "/out/v.mp4"),
        (path, Path("/out/v.mp4"), "/out/v.mp4"),
        (path, Path("/out"), "/out/"),
        (flag, " False ", False),
        (flag, "TRUE", True),
        (job_id, " cm1\n", "cm1"),
    ],
    ids=lambda part: getattr(part, "__name__", repr(part)),
)
def test_a_usual_spelling_is_put_into_its_form(check: Any, value: Any, expected: Any) -> None:
    assert checked({"field": (check, None)}, {"field": value}) == {"field": expected}


DEFAULTS = {
    "output_path": None,
    "replace": False,
    "magichour_conn_id": "magichour_default",
    "deferrable": False,
    "timeout": 3600.0,
}
PAID = {"max_credits": None, "wait_for_completion": True, "poll_interval": None}


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("given", ["nothing", "None"])
def test_none_is_the_default_of_every_argument(kind: str, given: str) -> None:
    defaults = DEFAULTS if kind == "sensor" else DEFAULTS | PAID
    task = MAKES[kind](**(dict.fromkeys(defaults) if given == "None" else {}))
    assert {name: getattr(task, name) for name in defaults} == defaults


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_path", " "),
        ("magichour_conn_id", ""),
        ("replace", "yes"),
        ("deferrable", "yes"),
        ("deferrable", TEMPLATE),
        ("timeout", 0),
        ("timeout", "soon"),
        ("timeout", True),
    ],
)
def test_a_value_that_cannot_work_is_refused_at_parse_and_names_the_task(
    kind: str, name: str, value: Any
) -> None:
    with pytest.raises(InvalidInput, match=rf"^task 't': {name}=.*\nNot charged\.$"):
        MAKES[kind](**{name: value})


@pytest.mark.parametrize("name", ["wait_for_completion", "poll_interval", "max_credits"])
def test_a_value_that_cannot_work_is_refused_by_the_operators(name: str) -> None:
    for value in ("maybe", -1):
        with pytest.raises(InvalidInput, match=f"{name}="):
            MAKES["video"](**{name: value})


@pytest.mark.parametrize(
    "name", ["output_path", "replace", "magichour_conn_id", "max_credits", "timeout", "poll_interval"]
)
def test_a_template_waits_for_run_time(name: str) -> None:
    assert getattr(MAKES["video"](**{name: TEMPLATE}), name) == TEMPLATE


def test_a_template_in_the_dags_own_delimiters_waits_for_run_time() -> None:
    jinja = {"variable_start_string": "[[", "variable_end_string": "]]"}
    with DAG("d", schedule=None, params={"p": Param("me.jpg")}, jinja_environment_kwargs=jinja):
        task = MAKES["video"](image_file_path="[[ params.p ]]")
        with pytest.raises(InvalidInput, match="is not a known image file"):
            TalkingPhotoOperator(task_id="u", **VIDEO | {"image_file_path": TEMPLATE})
    assert task.image_file_path == "[[ params.p ]]"


def test_without_waiting_there_is_nothing_to_put_anywhere() -> None:
    with pytest.raises(InvalidInput, match="output_path='/out/': needs wait_for_completion=True"):
        MAKES["video"](output_path="/out/", wait_for_completion=False)
