"""The voice operator and its sensor: the same promises as for videos, and the chain from text to video."""

from __future__ import annotations

import re
import wave
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import write_silence

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from harness import Airflow

STUB_SECONDS = 0.5  # of the voice that the emulator has when it renders nothing


def test_a_text_becomes_a_voice_on_disk(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(progression="polls:2", poll_interval=0.02) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", emulator.connection_json)
        run = airflow.speak(
            prompt="Good evening. " * 3, output_path=f"{airflow.folder}/out/", deferrable=True
        )
        (job,) = emulator.jobs()

    assert run.state("voice") == "success", run.errors("voice")
    voice = airflow.folder / "out" / f"{job['id']}.wav"
    with wave.open(str(voice)) as sound:
        seconds = sound.getnframes() / sound.getframerate()
    assert run.result("voice") == {
        "job_id": job["id"],
        "status": "complete",
        "credits_charged": 5,
        "output_path": str(voice),
        "audio_file_path": f"https://magichour.ai/my-library?audioId={job['id']}",
        "duration_seconds": pytest.approx(seconds, abs=0.001),
    }


def test_every_input_reaches_magic_hour_and_nothing_else_does(airflow: Airflow, emulator: Emulator) -> None:
    airflow.speak(prompt="{{ 'Good' }} evening, ☺", voice_name="{{ 'Albert' }} Einstein", name="{{ 'News' }}")
    (sent,) = (request["json"] for request in emulator.requests("create_voice"))
    assert re.fullmatch(r"News \[mh-[0-9a-f]{8}\]", sent.pop("name"))
    assert sent == {"style": {"prompt": "Good evening, ☺", "voice_name": "Albert Einstein"}}
    assert emulator.requests("upload_urls") == []


def test_without_an_output_path_a_voice_is_measured_and_nothing_is_on_disk(
    airflow: Airflow, emulator: Emulator
) -> None:
    before = sorted(airflow.folder.rglob("*"))
    result = airflow.speak().result("voice")
    assert result["download_url"].startswith(emulator.url)
    assert result["duration_seconds"] == STUB_SECONDS
    assert sorted(airflow.folder.rglob("*")) == before


def test_a_voice_that_cannot_be_measured_is_delivered_without_its_length(
    airflow: Airflow, emulator: Emulator
) -> None:
    emulator.fault("download", status=200, body="a sound of next year's making", times=None)
    run = airflow.speak(output_path=f"{airflow.folder}/voice.wav")
    assert run.state("voice") == "success", run.errors("voice")
    assert run.result("voice")["duration_seconds"] is None


@pytest.mark.parametrize("prompt", ["x" * 1001, "", None])
def test_a_text_that_cannot_be_spoken_is_refused_at_parse(airflow: Airflow, prompt: str | None) -> None:
    with pytest.raises(ValueError, match=r"^task 'voice': prompt="):
        airflow.speak(prompt=prompt)


def test_a_text_that_is_known_at_run_time_is_checked_then(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.speak(prompt="{{ 'x' * 1001 }}", retries=1)
    (error,) = run.errors("voice")
    assert error.startswith("AirflowFailException: InvalidInput: prompt='xxx")
    assert emulator.requests() == []


def test_a_voice_above_max_credits_is_not_paid_for(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.speak(prompt="x" * 101, max_credits=10)
    assert "max_credits=10: the text of 101 characters is estimated at 11 credits" in run.errors("voice")[0]
    assert emulator.requests() == []


def test_a_voice_that_the_vendor_does_not_know_is_refused_by_the_vendor(
    airflow: Airflow, emulator: Emulator
) -> None:
    run = airflow.speak(voice_name="Albert Einstien", retries=1)
    (error,) = run.errors("voice")
    assert error.startswith("AirflowFailException: InvalidRequest:")
    assert "voice_name" in error
    assert "the nearest one is 'Albert Einstein'" in error
    assert emulator.charges() == 0


# --- picked up by the sensor ---


def test_a_voice_that_was_submitted_is_delivered_by_the_sensor(airflow: Airflow, emulator: Emulator) -> None:
    emulator.progression = "polls:2"
    run = airflow.run(
        """
        submitted = VoiceGeneratorOperator(task_id="submit", **TEXT, wait_for_completion=False)
        VoiceGeneratorSensor(
            task_id="voice", job_id=submitted.output["job_id"], output_path=OUT, deferrable=True
        )
        """,
        TEXT={"prompt": "Good evening.", "voice_name": "Albert Einstein"},
        OUT=f"{airflow.folder}/out/",
    )
    (job,) = emulator.jobs()
    assert run.state("voice") == "success", run.errors("voice")
    assert run.result("voice")["output_path"] == f"{airflow.folder}/out/{job['id']}.wav"
    assert run.result("voice")["audio_file_path"].endswith(f"audioId={job['id']}")
    assert Path(run.result("voice")["output_path"]).read_bytes()[:4] == b"RIFF"
    assert emulator.charges() == 1


# --- from text to video ---

CHAIN = """
voice = VoiceGeneratorOperator(
    task_id="voice", prompt="Good evening.", voice_name="Albert Einstein", deferrable=DEFERRABLE
)
TalkingPhotoOperator(
    task_id="video",
    image_file_path=PHOTO,
    audio_file_path=voice.output["audio_file_path"],
    end_seconds=END,
    output_path=OUT,
    deferrable=DEFERRABLE,
    retries=1,
)
"""


def chain(airflow: Airflow, deferrable: bool = False, end: str = "None", source: str = CHAIN) -> Any:
    return airflow.run(
        source.replace("END", end),
        PHOTO=str(airflow.folder / "photo.jpg"),
        OUT=f"{airflow.folder}/video.mp4",
        DEFERRABLE=deferrable,
    )


@pytest.mark.parametrize(
    ("deferrable", "end"),
    [(False, "None"), (True, 'voice.output["duration_seconds"]')],
    ids=["sync, end left out", "deferrable, end handed on"],
)
def test_from_text_to_video_the_voice_is_handed_over_by_its_library_url(
    airflow: Airflow, emulator: Emulator, deferrable: bool, end: str
) -> None:
    run = chain(airflow, deferrable, end)
    assert run.state("video") == "success", run.errors("video")
    voice, video = emulator.jobs()
    assert video["request"]["assets"]["audio_file_path"] == (
        f"https://magichour.ai/my-library?audioId={voice['id']}"
    )
    assert video["request"]["end_seconds"] == STUB_SECONDS
    assert [request["bytes"] for request in emulator.requests("put")] == [airflow.photo.stat().st_size]
    assert emulator.charges() == 2


def test_the_video_speaks_for_as_long_as_the_voice_does(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(poll_interval=0.02) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", emulator.connection_json)
        airflow.photo.write_bytes((Path(__file__).parents[2] / "example_dags/media/ada.jpg").read_bytes())
        run = chain(airflow)
    assert run.state("video") == "success", run.errors("video")
    said, shown = run.result("voice")["duration_seconds"], run.result("video")["duration_seconds"]
    assert shown == pytest.approx(said, abs=0.001)
    assert said > STUB_SECONDS


def test_a_download_url_stays_the_same_input_when_its_signature_changes(
    airflow: Airflow, emulator: Emulator
) -> None:
    source = CHAIN.replace('voice.output["audio_file_path"]', 'voice.output["download_url"]')
    run = chain(airflow, source=source, end='voice.output["duration_seconds"]')
    before = run.result("voice")["download_url"]
    run.clear("voice")
    assert run.result("voice")["download_url"] != before
    run.clear("video")
    assert run.state("video") == "success", run.errors("video")
    assert emulator.charges() == 2


# --- an end that is left out ---


def test_a_clip_without_an_end_ends_with_its_file(airflow: Airflow, emulator: Emulator) -> None:
    write_silence(voice := airflow.folder / "voice.wav", 2.5)
    run = airflow.video(audio_file_path=f"file://{voice}", start_seconds=0.5, end_seconds=None)
    assert run.state() == "success", run.errors()
    assert emulator.jobs()[0]["request"]["end_seconds"] == 2.5
    assert emulator.jobs()[0]["credits_charged"] == 96


def test_a_voice_is_not_measured_again_when_the_job_is_resumed(airflow: Airflow, emulator: Emulator) -> None:
    write_silence(voice := airflow.folder / "voice.wav", 1)
    target = airflow.folder / "video.mp4"
    run = airflow.video(audio_file_path=str(voice), end_seconds=None, output_path=str(target))
    for path in (target, voice, airflow.photo):
        path.unlink()
    run.clear()
    assert run.state() == "success", run.errors()
    assert target.is_file()
    assert emulator.charges() == 1


def test_a_voice_that_grew_between_two_tries_is_still_the_same_input(
    airflow: Airflow, emulator: Emulator
) -> None:
    write_silence(voice := airflow.folder / "voice.wav", 1)
    emulator.fault("create", status=503)
    emulator.fault("download", status=403, times=4)
    run = airflow.video(
        audio_file_path=str(voice), end_seconds=None, retries=2, output_path=f"{airflow.folder}/out/"
    )
    write_silence(voice, 2)
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ("broken.mp3", "broken.mp3 cannot be measured"),
        ("{{ 'https://x.example/voice.mp3' }}", "is not a file that can be measured here"),
        ("https://magichour.ai/my-library?audioId=nobodys", "the audio of job nobodys cannot be measured"),
    ],
)
def test_what_cannot_be_measured_asks_for_the_end_before_anything_is_paid_or_uploaded(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, audio: str, words: str
) -> None:
    monkeypatch.chdir(airflow.folder)
    (airflow.folder / "broken.mp3").write_bytes(b"\xff\xfb broken")
    run = airflow.video(audio_file_path=audio, end_seconds=None, retries=1)
    (error,) = run.errors()
    assert error.startswith("AirflowFailException: InvalidInput: end_seconds=None: is needed")
    assert words in error
    assert emulator.charges() == 0
    assert emulator.requests("put") == []


@pytest.mark.parametrize("audio", ["https://x.example/voice.mp3", "api-assets/voice.mp3"])
def test_where_that_is_known_at_parse_the_dag_does_not_parse(airflow: Airflow, audio: str) -> None:
    with pytest.raises(ValueError, match=r"^task 'video': end_seconds=None: is needed"):
        airflow.video(audio_file_path=audio, end_seconds=None)


def test_a_measured_clip_is_held_against_limits_and_credits(
    airflow: Airflow, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    write_silence(voice := airflow.folder / "voice.wav", 46)
    measured = {"audio_file_path": str(voice), "end_seconds": None}
    run = airflow.video(**measured, max_credits=2000)
    assert "max_credits=2000: the clip of 46 s is estimated at 2208 credits" in run.errors()[0]
    assert emulator.requests() == []

    run = airflow.video(**measured, generation_mode="prompted")
    assert "= 46 s is above 45 s, the longest prompted clip" in capsys.readouterr().out
    assert run.errors()[0].startswith("AirflowFailException: InvalidRequest:")  # the vendor's refusal is free

    run = airflow.video(**measured, start_seconds=46)
    assert "start_seconds=46.0: must be less than 46, the length of" in run.errors()[0]
    assert emulator.charges() == 0


def test_a_clip_longer_than_its_voice_is_bought_with_a_warning(
    airflow: Airflow, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    run = airflow.video(end_seconds=60)
    assert run.state() == "success", run.errors()
    log = capsys.readouterr().out
    assert "is 4 s long: the clip is estimated at 2880 credits, and at 192 (2688 fewer)" in log
    assert emulator.charges() == 1


def test_a_wait_for_a_voice_that_was_too_short_is_resumed_by_a_clear(
    airflow: Airflow, emulator: Emulator
) -> None:
    emulator.progression = "manual"
    run = airflow.speak(deferrable=True, timeout=timedelta(seconds=0.2))
    assert run.state("voice") == "failed"
    (job,) = emulator.jobs()
    assert job["id"] in run.errors("voice")[0]
    emulator.move(job["id"], "complete")
    run.clear("voice")
    assert run.state("voice") == "success", run.errors("voice")
    assert emulator.charges() == 1
