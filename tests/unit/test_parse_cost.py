"""What it costs to parse a DAG. The layers are held by import-linter: see ``pyproject.toml``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import magichour_provider

PACKAGE = Path(magichour_provider.__file__).parent

PARSE = """
import json, sys
from airflow.sdk import DAG, BaseOperator
with DAG("other"):
    BaseOperator(task_id="task")
before = set(sys.modules)
from magichour_provider.operators import TalkingPhotoOperator, VoiceGeneratorOperator
from magichour_provider.sensors import TalkingPhotoSensor
print("imported", json.dumps(sorted(set(sys.modules) - before)))
with DAG("d"):
    photo = {"image_file_path": "https://x.example/a.jpg", "audio_file_path": "/a.mp3"}
    TalkingPhotoOperator(task_id="video", **photo, output_path="/out/")
    VoiceGeneratorOperator(task_id="voice", prompt="Good evening.", voice_name="Anybody")
    TalkingPhotoSensor(task_id="wait", job_id="job-1")
print("made", json.dumps(sorted(set(sys.modules) - before)))
"""


OURS = "magichour_provider"
OTHERS = {OURS, "airflow", *sys.stdlib_module_names}


@pytest.fixture(scope="module")
def loaded() -> list[list[str]]:
    """The modules that are new after the imports of a DAG file, and after it has made its operators."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    lines = [
        line.partition(" ")[2] for line in answer.stdout.splitlines() if line.startswith(("imported", "made"))
    ]
    return [json.loads(line) for line in lines]


def test_to_import_the_operators_is_nearly_free(loaded: list[list[str]]) -> None:
    ours = [name for name in loaded[0] if name.startswith(f"{OURS}.")]
    assert {f"{OURS}.operators", f"{OURS}.sensors"} < set(ours)
    assert len(ours) <= 6


def test_a_dag_file_that_makes_operators_loads_what_checks_their_arguments_and_no_more(
    loaded: list[list[str]],
) -> None:
    made = set(loaded[1])
    assert f"{OURS}.api.inputs" in made
    for needless in ("api.client", "hooks", "triggers", "telemetry", "files.duration", "task.journal"):
        assert f"{OURS}.{needless}" not in made


def test_a_dag_file_loads_no_third_party_module(loaded: list[list[str]]) -> None:
    assert {name.partition(".")[0] for name in loaded[1]} <= OTHERS
