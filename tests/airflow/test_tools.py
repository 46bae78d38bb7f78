"""Any tool of the vendor: the same promises for images, videos and sounds; and operators for two of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import PHOTO, both_modes

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from harness import Airflow, Run

LIBRARY = "https://magichour.ai/my-library"

# For each type of job a tool, its body, the calls that make and poll it, and how its file begins.
IMAGE = (
    "ai-image-generator",
    {"image_count": 2, "style": {"prompt": "a lighthouse"}},
    ("create_tool", "get_image"),
    b"\x89PNG",
)
VIDEO = (
    "face-swap",
    {
        "start_seconds": 0,
        "end_seconds": 2,
        "assets": {"video_source": "file", "video_file_path": "VIDEO", "image_file_path": "PHOTO"},
    },
    ("create_tool", "get_video"),
    b"\0\0\0",
)
AUDIO = (
    "ai-voice-generator",
    {"style": {"prompt": "Good evening.", "voice_name": "Albert Einstein"}},
    ("create_voice", "get_audio"),
    b"RIFF",
)
each_type = pytest.mark.parametrize(
    ("tool", "body", "calls", "begins"), [IMAGE, VIDEO, AUDIO], ids=["image", "video", "audio"]
)


@pytest.fixture
def files(airflow: Airflow) -> dict[str, str]:
    video = airflow.folder / "clip.mp4"
    video.write_bytes(b"\0\0\0\x18ftypisom a video")
    return {"VIDEO": str(video), "PHOTO": str(airflow.photo)}


def with_files(body: Any, files: dict[str, str]) -> Any:
    if isinstance(body, dict):
        return {name: with_files(value, files) for name, value in body.items()}
    return files.get(body, body) if isinstance(body, str) else body


# --- the same promises for each type ---


@both_modes
@each_type
def test_a_job_of_any_type_is_paid_once_and_delivered(
    airflow: Airflow,
    emulator: Emulator,
    files: dict[str, str],
    deferrable: bool,
    tool: str,
    body: Any,
    calls: tuple[str, str],
    begins: bytes,
) -> None:
    emulator.progression = "polls:2"
    out = airflow.folder / "out"
    run = airflow.call(tool, with_files(body, files), output_path=f"{out}/", deferrable=deferrable)
    assert run.state("job") == "success", run.errors("job")
    (job,) = emulator.jobs()
    (sent,) = emulator.requests(calls[0])
    assert re.search(r" \[mh-[0-9a-f]{8}\]$", sent["json"]["name"])
    result = run.result("job")
    delivered = result.get("output_paths", [result["output_path"]])
    assert sorted(map(str, out.iterdir())) == sorted(delivered)
    assert len(delivered) == body.get("image_count", 1)
    assert all(Path(path).read_bytes().startswith(begins) for path in delivered)
    assert (result["job_id"], result["credits_charged"]) == (job["id"], job["credits_charged"])
    run.clear("job")
    assert run.state("job") == "success", run.errors("job")
    assert emulator.charges() == 1


@both_modes
@each_type
@pytest.mark.parametrize("lost", [{"reset": "after"}, {"status": 502, "html": True, "effect": True}])
def test_when_the_answer_is_lost_no_retry_pays_again(
    airflow: Airflow,
    emulator: Emulator,
    files: dict[str, str],
    deferrable: bool,
    tool: str,
    body: Any,
    calls: tuple[str, str],
    begins: bytes,
    lost: dict[str, Any],
) -> None:
    emulator.fault(calls[0], **lost)
    run = airflow.call(tool, with_files(body, files), deferrable=deferrable, retries=2)
    (error,) = run.errors("job")
    assert error.startswith("AirflowFailException: SubmissionUncertain:")
    assert re.search(r"The name of such a job ends in \[mh-[0-9a-f]{8}\]", error)
    run.clear("job")
    assert run.errors("job")[0].startswith("AirflowFailException: SubmissionUncertain:")
    assert emulator.charges() == 1


@each_type
@pytest.mark.parametrize(
    ("status", "error_cls"), [(402, "InsufficientCredits"), (422, "InvalidRequest"), (403, "Forbidden")]
)
def test_a_refusal_charges_nothing_and_is_not_repeated(
    airflow: Airflow,
    emulator: Emulator,
    files: dict[str, str],
    tool: str,
    body: Any,
    calls: tuple[str, str],
    begins: bytes,
    status: int,
    error_cls: str,
) -> None:
    emulator.fault(calls[0], status=status, times=None)
    run = airflow.call(tool, with_files(body, files), retries=2)
    (error,) = run.errors("job")
    assert error.startswith(f"AirflowFailException: {error_cls}:")
    assert error.endswith("Not charged.")
    assert (emulator.charges(), len(emulator.requests(calls[0]))) == (0, 1)


@each_type
def test_a_429_is_waited_for_and_a_503_is_left_to_the_next_try(
    airflow: Airflow,
    emulator: Emulator,
    files: dict[str, str],
    tool: str,
    body: Any,
    calls: tuple[str, str],
    begins: bytes,
) -> None:
    emulator.fault(calls[0], status=429, times=3)
    emulator.fault(calls[0], status=503)
    run = airflow.call(tool, with_files(body, files), retries=1)
    assert run.state("job") == "success", run.errors("job")
    assert [error.partition(":")[0] for error in run.errors("job")] == ["AirflowException"]
    assert emulator.charges() == 1


@both_modes
@each_type
def test_a_failed_job_is_refunded_and_ends_the_task_if_it_would_fail_again(
    airflow: Airflow,
    emulator: Emulator,
    files: dict[str, str],
    deferrable: bool,
    tool: str,
    body: Any,
    calls: tuple[str, str],
    begins: bytes,
) -> None:
    credits_before = emulator.credits
    emulator.fault(calls[0], ends="error:content_policy_violation")
    run = airflow.call(tool, with_files(body, files), deferrable=deferrable, retries=2)
    (error,) = run.errors("job")
    assert error.startswith("AirflowFailException: JobFailed: job ")
    assert re.search(r"\nRefunded \d+ credits\.$", error)
    assert (emulator.charges(), emulator.credits) == (1, credits_before)


@each_type
def test_a_download_that_breaks_is_downloaded_again_free_of_charge(
    airflow: Airflow,
    emulator: Emulator,
    files: dict[str, str],
    tool: str,
    body: Any,
    calls: tuple[str, str],
    begins: bytes,
) -> None:
    emulator.fault("download", cut=40, times=5)
    out = f"{airflow.folder}/out/"
    run = airflow.call(tool, with_files(body, files), output_path=out, retries=2)
    assert run.state("job") == "success", run.errors("job")
    assert len(list(Path(out).iterdir())) == body.get("image_count", 1)
    assert emulator.charges() == 1


# --- the body ---


def test_a_body_is_templated_and_its_files_are_uploaded_wherever_they_are(
    airflow: Airflow, emulator: Emulator, files: dict[str, str]
) -> None:
    body = {
        "name": "{{ 'News' }}",
        "start_seconds": "{{ 0 }}",
        "end_seconds": "{{ 1.5 }}",
        "style": {"version": None},
        "assets": {
            "video_source": "file",
            "video_file_path": "{{ params.video }}",
            "face_mappings": [
                {"original_face": "api-assets/0-0.png", "new_face": f"file://{airflow.photo}"},
                {"original_face": "api-assets/0-1.png", "new_face": f"{LIBRARY}?imageId=cm1"},
            ],
        },
    }
    run = airflow.run(
        "dag.params['video'] = VIDEO; MagicHourOperator(task_id='job', tool='face-swap', body=BODY)",
        BODY=body,
        VIDEO=files["VIDEO"],
    )
    assert run.state("job") == "success", run.errors("job")
    (sent,) = (request["json"] for request in emulator.requests("create_tool"))
    assert re.fullmatch(r"News \[mh-[0-9a-f]{8}\]", sent["name"])
    assert (sent["start_seconds"], sent["end_seconds"]) == (0, 1.5)
    assert "style" not in sent or sent["style"] == {}
    one, two = sent["assets"]["face_mappings"]
    assert one["new_face"].startswith("api-assets/")
    assert two["new_face"] == f"{LIBRARY}?imageId=cm1"
    (upload,) = emulator.requests("upload_urls")
    assert upload["json"]["items"] == [
        {"type": "video", "extension": "mp4"},
        {"type": "image", "extension": "jpg"},
    ]
    assert sorted(request["bytes"] for request in emulator.requests("put")) == sorted(
        [len(PHOTO), Path(files["VIDEO"]).stat().st_size]
    )


def test_bodies_are_mapped_and_results_handed_on_without_a_detour(
    airflow: Airflow, emulator: Emulator
) -> None:
    run = airflow.run(
        """
        images = MagicHourOperator.partial(task_id="image", tool="ai-image-generator").expand(
            body=[{"image_count": 1, "style": {"prompt": text}} for text in ("one", "two")]
        )

        @task
        def motion(made):
            return [
                {"end_seconds": 2, "assets": {"image_file_path": one["image_file_path"]}} for one in made
            ]

        MagicHourOperator.partial(task_id="moving", tool="image-to-video").expand(body=motion(images.output))
        """
    )
    assert run.state("moving") == "success,success", run.errors("moving")
    images = [job["id"] for job in emulator.jobs() if job["job_type"] == "image"]
    taken = [request["json"]["assets"]["image_file_path"] for request in emulator.requests("create_tool")[2:]]
    assert sorted(taken) == sorted(f"{LIBRARY}?imageId={job_id}" for job_id in images)
    assert (emulator.charges(), emulator.requests("upload_urls")) == (4, [])


@pytest.mark.parametrize(
    ("tool", "body", "words"),
    [
        ("faceswap", {}, "tool='faceswap': is not known"),
        ("face-swap", {"start_seconds": 0}, "end_seconds=None: is needed by face-swap"),
        (
            "photo-colorizer",
            {"assets": {"image_file_path": "me.txt"}},
            "assets.image_file_path='me.txt': is not a",
        ),
        (
            "ai-image-generator",
            {"image_count": "two", "style": {"prompt": "x"}},
            "image_count='two': is of another",
        ),
    ],
)
def test_a_body_that_can_never_work_is_refused_at_parse(
    airflow: Airflow, tool: str, body: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=f"^task 'job': .*{re.escape(words)}"):
        airflow.call(tool, body)


def test_a_body_that_is_known_at_run_time_is_checked_then(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.call("photo-colorizer", {"assets": {"image_file_path": "{{ 'me.txt' }}"}}, retries=1)
    (error,) = run.errors("job")
    assert error.startswith("AirflowFailException: InvalidInput: assets.image_file_path='me.txt'")
    assert emulator.requests() == []


def test_what_the_description_does_not_know_is_sent_with_a_warning(
    airflow: Airflow, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"image_count": 1, "style": {"prompt": "x"}, "model": "next-years-model"}
    run = airflow.call("ai-image-generator", body)
    assert "model='next-years-model' is none of default, " in capsys.readouterr().out
    assert run.errors("job")[0].startswith(
        "AirflowFailException: InvalidRequest:"
    )  # the vendor's, free of charge
    assert emulator.charges() == 0


# --- several files ---


@both_modes
def test_all_images_are_in_the_folder_and_the_first_is_named(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    run = airflow.call(
        "ai-image-generator",
        {"image_count": 3, "style": {"prompt": "x"}},
        output_path=f"{airflow.folder}/out/",
        deferrable=deferrable,
    )
    (job,) = emulator.jobs()
    paths = [f"{airflow.folder}/out/{job['id']}-{number}.png" for number in (1, 2, 3)]
    assert run.result("job") == {
        "job_id": job["id"],
        "status": "complete",
        "credits_charged": 15,
        "output_path": paths[0],
        "output_paths": paths,
        "image_file_path": f"{LIBRARY}?imageId={job['id']}",
    }


def test_without_an_output_path_all_urls_are_listed(airflow: Airflow, emulator: Emulator) -> None:
    result = airflow.call("ai-image-generator", {"image_count": 2, "style": {"prompt": "x"}}).result("job")
    assert len(set(result["download_urls"])) == 2
    assert result["download_url"] == result["download_urls"][0]


def test_one_path_for_several_images_is_refused_before_anything_is_paid(
    airflow: Airflow, emulator: Emulator
) -> None:
    body = {"image_count": "{{ 2 }}", "style": {"prompt": "x"}}
    run = airflow.call("ai-image-generator", body, output_path=f"{airflow.folder}/one.png")
    assert "is one file, and image_count=2 makes several; end it with '/'" in run.errors("job")[0]
    assert emulator.charges() == 0


def test_one_path_takes_the_first_of_images_that_nobody_asked_for(
    airflow: Airflow, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    download = {"$answer": "/downloads/0"}
    emulator.fault("get_image", body={"$answer": "", "downloads": [download, download]}, times=None)
    one = airflow.folder / "one.png"
    run = airflow.call(
        "photo-colorizer", {"assets": {"image_file_path": str(airflow.photo)}}, output_path=str(one)
    )
    assert run.result("job")["output_path"] == str(one)
    assert one.read_bytes().startswith(b"\x89PNG")
    assert "has made 2 files, and output_path=" in capsys.readouterr().out


def test_the_urls_of_a_job_come_in_the_order_in_which_its_files_are_downloaded(
    airflow: Airflow, emulator: Emulator
) -> None:
    image = {"$answer": "/downloads/0"}
    other = {"url": "https://files.example/metadata.json", "expires_at": "2026-12-01T00:00:00Z"}
    emulator.fault("get_image", body={"$answer": "", "downloads": [other, image]}, times=None)
    run = airflow.call("photo-colorizer", {"assets": {"image_file_path": str(airflow.photo)}})
    result = run.result("job")
    assert result["download_url"] == result["download_urls"][0] != other["url"]
    assert result["download_urls"][1] == other["url"]


# --- credits ---


def test_a_limit_needs_a_price(airflow: Airflow, emulator: Emulator, files: dict[str, str]) -> None:
    tool, body, *_ = VIDEO
    run = airflow.call(tool, with_files(body, files), max_credits=500, retries=1)
    (error,) = run.errors("job")
    assert error.startswith(
        "AirflowFailException: InvalidInput: max_credits=500.0: cannot be checked for face-swap of 2 s"
    )
    assert "give estimated_credits" in error
    assert emulator.requests() == []

    run = airflow.call(tool, with_files(body, files), max_credits=500, estimated_credits="{{ 501 }}")
    assert run.errors("job")[0].startswith("AirflowFailException: CreditLimitExceeded: max_credits=500: ")
    assert emulator.requests() == []

    run = airflow.call(tool, with_files(body, files), max_credits=500, estimated_credits=60)
    assert run.state("job") == "success", run.errors("job")


def test_a_published_price_is_held_against_the_limit(airflow: Airflow, emulator: Emulator) -> None:
    body = {"assets": {"image_file_path": str(airflow.photo)}}
    run = airflow.call("photo-colorizer", body, max_credits=9)
    assert "photo-colorizer is estimated at 10 credits, at 10 credits a call" in run.errors("job")[0]
    assert emulator.requests() == []


# --- a tool that takes no name ---


def test_a_lost_job_without_a_name_needs_the_tick(airflow: Airflow, emulator: Emulator) -> None:
    body = {"assets": {"image_file_path": str(airflow.photo)}, "end_seconds": 4, "script": "Buy this."}
    emulator.fault("create_tool", reset="after")
    run = airflow.call("ai-ugc-ad", body, retries=1)
    (error,) = run.errors("job")
    assert "Jobs of this tool have no name" in error
    assert '"anyway": true' in error
    assert "name" not in emulator.requests("create_tool")[0]["json"]
    assert emulator.charges() == 1


# --- the sensor ---


@both_modes
def test_a_job_of_any_type_is_picked_up_by_the_sensor(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    emulator.progression = "polls:2"
    run = airflow.run(
        """
        submitted = ImageGeneratorOperator(
            task_id="submit", prompt="x", image_count=2, wait_for_completion=False
        )
        JobSensor(
            task_id="job",
            job_id=submitted.output["job_id"],
            job_type="image",
            output_path=OUT,
            deferrable=DEFERRABLE,
            poke_interval=0.05,
        )
        """,
        OUT=f"{airflow.folder}/out/",
        DEFERRABLE=deferrable,
    )
    assert run.state("job") == "success", run.errors("job")
    assert len(run.result("job")["output_paths"]) == 2
    assert emulator.charges() == 1


def test_a_sensor_for_a_type_that_is_not_known_does_not_parse(airflow: Airflow) -> None:
    with pytest.raises(ValueError, match="job_type='hologram': is not known; use one of video, audio, image"):
        airflow.run("JobSensor(task_id='job', job_id='cm1', job_type='hologram')")


# --- the operators for single tools ---


def sent_by(run: Run, emulator: Emulator, task_id: str = "job") -> Any:
    assert run.state(task_id) == "success", run.errors(task_id)
    (sent,) = (request["json"] for request in emulator.requests("create_tool"))
    del sent["name"]
    return sent


def test_the_image_generator_sends_what_was_given_and_nothing_else(
    airflow: Airflow, emulator: Emulator
) -> None:
    run = airflow.run(
        """
        ImageGeneratorOperator(
            task_id="job", prompt="{{ 'a lighthouse' }}", image_count="{{ 2 }}", aspect_ratio="9:16",
            model="flux-schnell", resolution="1k", art_style="ai-photo-generator",
        )
        """
    )
    assert sent_by(run, emulator) == {
        "image_count": 2,
        "model": "flux-schnell",
        "aspect_ratio": "9:16",
        "resolution": "1k",
        "style": {"prompt": "a lighthouse", "tool": "ai-photo-generator"},
    }


@pytest.mark.parametrize(
    ("arguments", "style"),
    [
        ({}, {"template": "karaoke"}),
        ({"template": "cinematic"}, {"template": "cinematic"}),
        (
            {"custom_config": {"font": "Noto Sans", "font_size": "24"}},
            {"custom_config": {"font": "Noto Sans", "font_size": 24}},
        ),
    ],
)
def test_subtitles_are_asked_for_as_the_vendor_wants_it(
    airflow: Airflow, emulator: Emulator, arguments: dict[str, Any], style: Any
) -> None:
    run = airflow.run(
        "AutoSubtitleOperator(task_id='job', video_file_path=URL, end_seconds='{{ 4.6 }}', **MORE)",
        URL="https://x.example/video.mp4",
        MORE=arguments,
    )
    assert sent_by(run, emulator) == {
        "start_seconds": 0,
        "end_seconds": 4.6,
        "assets": {"video_file_path": "https://x.example/video.mp4"},
        "style": style,
    }


def test_what_another_task_returns_is_waited_for(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.run(
        """
        @task
        def words():
            return "a lighthouse"

        ImageGeneratorOperator(task_id="job", prompt=words())
        MagicHourOperator(
            task_id="other",
            tool="ai-image-generator",
            body={"image_count": 1, "style": {"prompt": words()}},
        )
        """
    )
    assert (run.state("job"), run.state("other")) == ("success", "success"), run.errors("other")
    prompts = [request["json"]["style"]["prompt"] for request in emulator.requests("create_tool")]
    assert prompts == ["a lighthouse", "a lighthouse"]
