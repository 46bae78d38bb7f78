"""Death after each step of ``execute`` and of the resume: the next try pays nothing that was paid."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from harness import both_modes

import magichour_provider
from magichour_provider.api.client import MagicHourClient
from magichour_provider.api.integrity import DownloadValidator
from magichour_provider.files import media
from magichour_provider.files.storage import Source, Target
from magichour_provider.operators import TalkingPhotoOperator, VoiceGeneratorOperator
from magichour_provider.task.journal import Journal

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
    (TalkingPhotoOperator, "_inputs"),
    (TalkingPhotoOperator, "_take_up"),
    (Target, "check"),
    (Source, "find"),
    (MagicHourClient, "upload"),
]
STEPS_WITH_A_JOB = [
    (Journal, "record_job"),
    (TalkingPhotoOperator, "_submit"),
    (TalkingPhotoOperator, "push_link"),
    (Journal, "record_delivery"),
    (DownloadValidator, "feed"),  # the file is begun
    (DownloadValidator, "close"),  # the file is on disk, under its temporary name
    (LocalFileSystem, "mv"),
    (MagicHourClient, "download"),
    (TalkingPhotoOperator, "collect_result"),
]


@both_modes
@pytest.mark.parametrize(("owner", "step"), STEPS_BEFORE_PAYING + STEPS_WITH_A_JOB)
def test_one_charge_and_the_video_is_delivered(
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


VOICE_STEPS = [
    (Journal, "of"),
    (VoiceGeneratorOperator, "_inputs"),
    (VoiceGeneratorOperator, "_take_up"),
    (VoiceGeneratorOperator, "_prepare"),
    (Journal, "record_job"),
    (VoiceGeneratorOperator, "_submit"),
    (VoiceGeneratorOperator, "push_link"),
    (Journal, "record_delivery"),
    (DownloadValidator, "feed"),
    (LocalFileSystem, "mv"),
    (MagicHourClient, "download"),
    (media, "of_file"),
    (VoiceGeneratorOperator, "collect_result"),
]


@both_modes
@pytest.mark.parametrize(("owner", "step"), VOICE_STEPS)
def test_one_charge_and_the_voice_is_delivered(
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


@both_modes
@pytest.mark.parametrize(
    ("owner", "step"),
    [(media, "fill_end_seconds"), (media, "of_file"), (MagicHourClient, "upload"), (Journal, "record_job")],
)
def test_one_charge_and_one_end_when_the_end_is_measured(
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
def test_one_charge_when_killed_after_the_wait(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    killed = kill_after(monkeypatch, MagicHourClient if step == "wait" else TalkingPhotoOperator, step)
    run = airflow.video(output_path=f"{airflow.folder}/out/", retries=1)
    assert killed
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


@both_modes
@pytest.mark.parametrize("task", ["video", "voice"])
@pytest.mark.parametrize(
    ("owner", "step", "charges"), [(Journal, "record_intent", 0), (MagicHourClient, "submit", 1)]
)
def test_around_the_paid_call_it_stops_and_says_what_is_unknown(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    step: str,
    charges: int,
    task: str,
    deferrable: bool,
) -> None:
    kill_after(monkeypatch, owner, step)
    run = (airflow.video if task == "video" else airflow.speak)(deferrable=deferrable, retries=3)
    killed, uncertain = run.raised(task)
    assert isinstance(killed, Killed)
    assert type(uncertain.__cause__).__name__ == "SubmissionUncertain"
    assert run.state(task) == "failed"
    assert emulator.charges() == charges


@both_modes
def test_killed_over_and_over_it_still_pays_once(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    for owner, step in STEPS_BEFORE_PAYING + STEPS_WITH_A_JOB:
        kill_after(monkeypatch, owner, step)
    run = airflow.video(output_path=f"{airflow.folder}/video.mp4", deferrable=deferrable, retries=20)
    assert run.state() == "success", run.errors()
    assert all(isinstance(error, Killed) for error in run.raised())
    assert emulator.charges() == 1
