"""Death after each step of ``execute`` and of the resume: the next try pays nothing that was paid."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from fsspec.implementations.local import LocalFileSystem
from harness import both_modes

import magichour_provider
from magichour_provider.api.client import MagicHourClient
from magichour_provider.api.integrity import DownloadValidator
from magichour_provider.exceptions import JournalUnavailable, SubmissionUncertain, UploadFailed
from magichour_provider.files import duration
from magichour_provider.files.storage import Source, Target
from magichour_provider.operators import TalkingPhotoOperator
from magichour_provider.task.journal import Journal
from magichour_provider.task.lost_answer import LostAnswers
from magichour_provider.task.submit import _owner

if TYPE_CHECKING:
    from harness import Airflow

    from magichour_provider.emulator import Emulator


class Killed(BaseException):
    """Nothing in the package catches it, as nothing catches SIGKILL."""


def kill_after(monkeypatch: pytest.MonkeyPatch, owner: Any, step: str) -> list[str]:
    """Die once, when the step is done and before the next. Returns a list that says so."""
    original = inspect.getattr_static(owner, step)
    done = getattr(original, "__func__", original)  # of a classmethod
    killed: list[str] = []

    def then_die(*args: Any, **kwargs: Any) -> Any:
        result = done(*args, **kwargs)
        if not killed:
            killed.append(step)
            raise Killed(step)
        return result

    monkeypatch.setattr(
        owner, step, type(original)(then_die) if isinstance(original, classmethod) else then_die
    )
    return killed


STEPS_BEFORE_PAYING = [
    (Journal, "of"),
    (TalkingPhotoOperator, "_resumable"),
    (Target, "check"),
    (Source, "find"),
    (MagicHourClient, "upload"),
    (Target, "reserve"),
]
STEPS_WITH_A_JOB = [
    (Journal, "record_job"),
    (TalkingPhotoOperator, "_submit"),
    (TalkingPhotoOperator, "push_job_link"),
    (Journal, "record_delivery"),
    (DownloadValidator, "feed"),  # a part of the video is on disk
    (DownloadValidator, "close"),
    (LocalFileSystem, "mv"),
    (MagicHourClient, "download"),
    (Journal, "record_end"),
    (TalkingPhotoOperator, "collect_result"),
]


@pytest.mark.parametrize(
    ("owner", "step", "deferrable"),
    [
        *((*step, False) for step in STEPS_BEFORE_PAYING),  # which are the same in both modes
        *((*step, deferrable) for step in STEPS_WITH_A_JOB for deferrable in (False, True)),
    ],
)
def test_a_death_after_any_step_costs_one_charge_and_the_video_is_delivered(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    step: str,
    deferrable: bool,
) -> None:
    killed = kill_after(monkeypatch, owner, step)
    target = airflow.folder / "out" / "video.mp4"
    run = airflow.video(output_path=str(target), deferrable=deferrable, retries=1)
    assert killed
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1
    assert target.read_bytes()[4:8] == b"ftyp"
    assert list(target.parent.iterdir()) == [target]


@both_modes
@pytest.mark.parametrize(("owner", "step"), [(DownloadValidator, "close"), (duration, "of_file")])
def test_a_death_after_a_step_that_a_voice_has_of_its_own_costs_one_charge_and_it_is_delivered(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    step: str,
    deferrable: bool,
) -> None:
    killed = kill_after(monkeypatch, owner, step)
    target = airflow.folder / "out" / "voice.wav"
    run = airflow.speak(output_path=str(target), deferrable=deferrable, retries=1)
    assert killed
    assert run.state("voice") == "success", run.errors("voice")
    assert emulator.charges() == 1
    assert run.result("voice")["duration_seconds"] == 0.5
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("end", ["SIGTERM", "a timeout of Airflow"])
def test_an_end_while_the_api_is_busy_leaves_nothing_uncertain(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    emulator.fault("create", status=429)
    pausing = TalkingPhotoOperator._set_paused
    ended: list[str] = []

    def then_end(operator: TalkingPhotoOperator, is_paused: bool) -> None:
        pausing(operator, is_paused)
        if is_paused:
            ended.append(end)
            if end == "SIGTERM":
                operator.on_kill()  # as Airflow's signal handler does
            raise AirflowTaskTimeout

    monkeypatch.setattr(TalkingPhotoOperator, "_set_paused", then_end)
    run = airflow.video(retries=1)
    assert ended == [end]
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


def files_of_a_failed_try(airflow: Airflow) -> int:
    """How many files a try that fails before it has a job leaves beside its exact ``output_path``."""
    folder = airflow.folder / "out"
    folder.mkdir()
    run = airflow.video(output_path=str(folder / "video.mp4"))
    assert run.state() == "failed"
    return len(list(folder.iterdir()))


def test_a_try_that_hears_of_a_paid_job_keeps_its_file_reserved(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    def adopt_reported(_: LostAnswers) -> bool:
        reads.append(1)
        if len(reads) == 2:  # the files are uploaded, and the paid call is next
            raise JournalUnavailable("the adoption could not be recorded", charged="yes")
        return False

    monkeypatch.setattr(LostAnswers, "adopt_reported", adopt_reported)
    assert files_of_a_failed_try(airflow) == 1


def test_a_try_does_not_release_what_another_try_has_reserved(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload(operator: TalkingPhotoOperator, context: Any, _: Any) -> None:
        Target(str(operator.output_path), False).reserve(_owner(context), 60)  # as its successor does
        raise UploadFailed("the storage is away", retryable=False)

    monkeypatch.setattr(TalkingPhotoOperator, "_prepare", upload)
    assert files_of_a_failed_try(airflow) == 1


def ended_by_airflow(operator: TalkingPhotoOperator, is_paused: bool) -> None:
    if is_paused:
        raise AirflowTaskTimeout


def not_recorded(*_: Any, **__: Any) -> None:
    raise JournalUnavailable("Airflow's API server is away")


@pytest.mark.parametrize(
    ("owner", "step", "broken"),
    [(TalkingPhotoOperator, "_set_paused", ended_by_airflow), (Journal, "record_intent", not_recorded)],
)
def test_a_try_that_ends_before_it_has_sent_anything_leaves_the_file_to_others(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, broken: Any
) -> None:
    emulator.fault("create", status=429)
    monkeypatch.setattr(owner, step, broken)
    assert files_of_a_failed_try(airflow) == 0


@both_modes
@pytest.mark.parametrize(("owner", "step"), [(duration, "fill_end_seconds"), (Journal, "record_job")])
def test_a_death_while_the_end_is_measured_costs_one_charge_with_one_end(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    step: str,
    deferrable: bool,
) -> None:
    voice = Path(magichour_provider.__file__).parent / "emulator" / "stub.wav"
    killed = kill_after(monkeypatch, owner, step)
    run = airflow.video(audio_file_path=str(voice), end_seconds=None, deferrable=deferrable, retries=1)
    assert killed
    assert run.state() == "success", run.errors()
    assert [job["request"]["end_seconds"] for job in emulator.jobs()] == [0.5]
    assert emulator.charges() == 1


@pytest.mark.parametrize("step", ["wait", "execute"])
def test_a_death_after_the_wait_costs_one_charge(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    killed = kill_after(monkeypatch, MagicHourClient if step == "wait" else TalkingPhotoOperator, step)
    run = airflow.video(output_path=f"{airflow.folder}/out/", retries=1)
    assert killed
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


@both_modes
@pytest.mark.parametrize(
    ("owner", "step", "charges"), [(Journal, "record_intent", 0), (MagicHourClient, "submit", 1)]
)
def test_a_death_around_the_paid_call_stops_the_task_and_says_what_is_unknown(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    step: str,
    charges: int,
    deferrable: bool,
) -> None:
    kill_after(monkeypatch, owner, step)
    run = airflow.video(deferrable=deferrable, retries=3)
    killed, uncertain = run.raised()
    assert isinstance(killed, Killed)
    assert isinstance(uncertain, SubmissionUncertain)
    assert run.state() == "failed"
    assert emulator.charges() == charges


@both_modes
def test_a_task_that_is_killed_over_and_over_still_pays_once(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    for owner, step in STEPS_BEFORE_PAYING + STEPS_WITH_A_JOB:
        kill_after(monkeypatch, owner, step)
    run = airflow.video(output_path=f"{airflow.folder}/video.mp4", deferrable=deferrable, retries=20)
    assert run.state() == "success", run.errors()
    assert all(isinstance(error, Killed) for error in run.raised())
    assert emulator.charges() == 1
