"""Voices, through the blocking client: the same rules as for videos, on the routes of audio."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from both import BLOCKING, Row, row, settings_for, through

from magichour_provider import exceptions as errors
from magichour_provider.api.inputs import VoiceInputs
from magichour_provider.api.wire import paid_call
from magichour_provider.emulator import Emulator
from magichour_provider.files.storage import Target

SPOKEN = VoiceInputs(prompt="Good evening, everybody.", voice_name="Albert Einstein")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def _no_faults_left(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.clear_faults()


def submit(emulator: Emulator, mode: str, inputs: VoiceInputs = SPOKEN) -> Any:
    return through(mode, settings_for(emulator), lambda api: api.submit(paid_call(inputs, {}, "n")))


@pytest.fixture
def job_id(emulator: Emulator) -> str:
    return str(submit(emulator, "sync").job_id)


@pytest.mark.parametrize("mode", BLOCKING)
def test_from_a_text_to_a_file(emulator: Emulator, tmp_path: Path, mode: str) -> None:
    submission = submit(emulator, mode)
    assert submission.credits_charged == 3  # 24 characters
    job_id = submission.job_id

    def wait(api: Any) -> Any:
        return api.wait(job_id, "audio", deadline=time.time() + 60, poll_interval=0.02)

    job = through(mode, settings_for(emulator), wait)
    assert (job.status, job.credits_charged, job.clip_seconds) == ("complete", 3, None)
    target = Target(f"{tmp_path}/voice.wav")
    through(mode, settings_for(emulator), lambda api: api.download(job_id, target, "audio"))
    (path,) = tmp_path.iterdir()
    assert path.read_bytes()[:4] == b"RIFF"
    through(mode, settings_for(emulator), lambda api: api.delete(job_id, "audio"))
    assert through(mode, settings_for(emulator), lambda api: api.get(job_id, "audio")).enabled is False


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_voice_is_no_video(emulator: Emulator, job_id: str, mode: str) -> None:
    with pytest.raises(errors.NotFound):
        through(mode, settings_for(emulator), lambda api: api.get(job_id))


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({}, Row("ok", charges=1)),
        ({"status": 401}, Row("Unauthorized", 401, False, "no")),
        ({"status": 402}, Row("InsufficientCredits", 402, False, "no")),
        ({"status": 422}, Row("InvalidRequest", 422, False, "no")),
        ({"status": 429}, Row("ok", charges=1, requests=2)),
        ({"status": 503}, Row("Unavailable", 503, True, "no")),
        ({"status": 503, "html": True}, Row("SubmissionUncertain", 503, False, "unknown")),
        ({"status": 500}, Row("SubmissionUncertain", 500, False, "unknown")),
        ({"reset": "before"}, Row("SubmissionUncertain", None, False, "unknown")),
        ({"reset": "after"}, Row("SubmissionUncertain", None, False, "unknown", charges=1)),
        ({"truncate": 10}, Row("SubmissionUncertain", 200, False, "unknown", charges=1)),
    ],
    ids=str,
)
def test_an_answer_to_the_paid_call(
    emulator: Emulator, pauses: list[float], fault: dict[str, Any], expected: Row, mode: str
) -> None:
    if fault:
        emulator.fault("create_voice", **fault)
    assert expected == row(
        mode,
        settings_for(emulator),
        lambda api: api.submit(paid_call(SPOKEN, {}, "n")),
        charges=emulator.charges,
        requests=lambda: len(emulator.requests("create_voice")),
    )


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"status": 403}, 403),
        ({"status": 200, "html": True}, None),
        ({"cut": 100}, None),
        ({"body": ""}, None),
        ({"reset": "before"}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_a_voice_arrives_whole_or_not_at_all(
    emulator: Emulator,
    job_id: str,
    tmp_path: Path,
    pauses: list[float],
    fault: dict[str, Any],
    status: int | None,
    times: int | None,
    mode: str,
) -> None:
    emulator.fault("download", times=times, **fault)
    target = Target(f"{tmp_path}/voice.wav")
    ending = row(
        mode,
        settings_for(emulator),
        lambda api: api.download(job_id, target, "audio"),
        charges=emulator.charges,
        requests=lambda: len(emulator.requests("download")),
    )
    if times:
        assert ending == Row("ok", requests=2)
        assert [path.name for path in tmp_path.iterdir()] == ["voice.wav"]
    else:
        assert ending == Row("DownloadFailed", status, True, "yes", requests=4)
        assert list(tmp_path.iterdir()) == []
