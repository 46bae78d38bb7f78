"""Each example runs unchanged; only where its videos go is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import Airflow

    from magichour_provider.emulator import Emulator

EXAMPLES = Path(__file__).parents[2] / "example_dags"


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
    assert sorted(path.stem for path in videos) == sorted(
        job["id"] for job in jobs if job["job_type"] == "video"
    )
    assert len(videos) > 0
    assert emulator.charges() == len(jobs)
