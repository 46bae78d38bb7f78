"""Each example runs unchanged; only where its videos go is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness import Airflow

    from magichour_provider.emulator import Emulator

EXAMPLES = Path(__file__).parents[2] / "example_dags"


@pytest.fixture(autouse=True)
def approved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person approves at once: nobody else would answer here."""
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    def execute(operator: ApprovalOperator, context: Any) -> dict[str, list[str]]:
        return {"chosen_options": [operator.APPROVE]}

    monkeypatch.setattr(ApprovalOperator, "execute", execute)


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(airflow: Airflow, emulator: Emulator, dags: Path, example: str) -> None:
    shutil.copytree(EXAMPLES / "media", dags / "media", ignore=shutil.ignore_patterns("*.py"))
    file = Path(shutil.copy(EXAMPLES / example, dags))
    output = airflow.folder / "videos"
    run = airflow.run_file(file, {"output_path": f"{output}/", "output": str(output)})

    assert {task_id: set(run.state(task_id).split(",")) for task_id in run.dag.task_ids} == {
        task_id: {"success"} for task_id in run.dag.task_ids
    }
    videos = [path for path in output.rglob("*") if path.is_file()]
    jobs = emulator.jobs()
    # A video from which another one is made stays at Magic Hour.
    used = json.dumps([job["request"] for job in jobs])
    last = [job["id"] for job in jobs if job["job_type"] == "video" and job["id"] not in used]
    assert sorted(path.stem for path in videos) == sorted(last)
    assert len(videos) > 0
    assert emulator.charges() == len(jobs)


def test_the_portrait_passes_from_step_to_step_without_a_detour(
    airflow: Airflow, emulator: Emulator, dags: Path
) -> None:
    file = Path(shutil.copy(EXAMPLES / "speaking_portrait.py", dags))
    output = airflow.folder / "videos"
    run = airflow.run_file(file, {"output_path": f"{output}/"})
    assert run.state("delivered") == "success", run.errors("delivered")
    by_type = {job["type"]: job for job in emulator.jobs()}
    assert by_type.keys() == {"AI_IMAGE", "VOICE_GENERATOR", "TALKING_PHOTO", "AUTO_SUBTITLE"}
    assert by_type["TALKING_PHOTO"]["request"]["assets"] == {
        "image_file_path": f"https://magichour.ai/my-library?imageId={by_type['AI_IMAGE']['id']}",
        "audio_file_path": f"https://magichour.ai/my-library?audioId={by_type['VOICE_GENERATOR']['id']}",
    }
    assert by_type["TALKING_PHOTO"]["id"] in by_type["AUTO_SUBTITLE"]["request"]["assets"]["video_file_path"]
    assert emulator.requests("upload_urls") == []
    assert len(emulator.requests("download")) == 2  # of the voice, which is measured; and of the result
    for task_id in ("delivered", "subtitled", "speaking", "voice", "portrait"):
        run.clear(task_id)
        assert run.state(task_id) == "success", run.errors(task_id)
    assert emulator.charges() == 4
