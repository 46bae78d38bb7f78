"""Operators among TaskFlow's functions: they take what those return, and give what those take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness import Airflow

    from magichour_provider.emulator import Emulator

LIBRARY = "https://magichour.ai/my-library"
LINES = [
    {"prompt": "Good morning.", "voice_name": "Albert Einstein"},
    {"prompt": "Good evening.", "voice_name": "Abraham Lincoln"},
]


def test_values_of_other_tasks_and_params_of_the_dag_go_into_any_field(
    airflow: Airflow, emulator: Emulator
) -> None:
    run = airflow.run(
        """
        @task(multiple_outputs=True)
        def plan() -> dict:
            return {"photo": FILES["image_file_path"], "end": 1.5, "place": OUT}

        @task
        def report(video: dict, credits: float) -> str:
            return f"{video['job_id']}: {credits}"

        planned = plan()
        video = TalkingPhotoOperator(
            task_id="video",
            image_file_path=planned["photo"],
            audio_file_path=FILES["audio_file_path"],
            end_seconds=planned["end"],
            resolution=dag.param("resolution", default="480p"),
            output_path=planned["place"],
        )
        report(video.output, video.output["credits_charged"])
        """,
        OUT=str(airflow.folder / "video.mp4"),
    )
    (job,) = emulator.jobs()
    assert run.state() == "success", run.errors()
    assert run.result("report") == f"{job['id']}: 72"
    assert (job["request"]["end_seconds"], job["request"]["resolution"]) == (1.5, "480p")
    assert (airflow.folder / "video.mp4").is_file()


def test_mapped_voices_become_mapped_videos(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.run(
        """
        @task
        def lines() -> list[dict]:
            return LINES

        voices = VoiceGeneratorOperator.partial(task_id="voice").expand_kwargs(lines())
        TalkingPhotoOperator.partial(task_id="video", image_file_path=PHOTO).expand_kwargs(
            voices.output.map(
                lambda voice: {
                    "audio_file_path": voice["audio_file_path"],
                    "end_seconds": voice["duration_seconds"],
                }
            )
        )
        """,
        LINES=LINES,
        PHOTO=f"{LIBRARY}?imageId=any",
    )
    assert run.state("voice") == run.state("video") == "success,success", run.errors("video")
    spoken = [voice["audio_file_path"] for voice in run.result("voice")]
    shown = [
        job["request"]["assets"]["audio_file_path"] for job in emulator.jobs() if job["job_type"] == "video"
    ]
    assert sorted(spoken) == sorted(shown)
    assert emulator.charges() == 4


def test_a_mapped_group_of_tasks_makes_a_video_of_each_line(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.run(
        """
        from airflow.sdk import task_group

        @task_group
        def clip(prompt, voice_name):
            voice = VoiceGeneratorOperator(task_id="voice", prompt=prompt, voice_name=voice_name)
            TalkingPhotoOperator(
                task_id="video", image_file_path=PHOTO, audio_file_path=voice.output["audio_file_path"]
            )

        clip.expand_kwargs(LINES)
        """,
        LINES=LINES,
        PHOTO=f"{LIBRARY}?imageId=any",
    )
    assert run.state("clip.video") == "success,success", run.errors("clip.video")
    texts = [job["request"]["style"]["prompt"] for job in emulator.jobs() if job["job_type"] == "audio"]
    assert sorted(texts) == ["Good evening.", "Good morning."]
    assert emulator.charges() == 4
