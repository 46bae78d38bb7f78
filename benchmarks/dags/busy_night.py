"""One photo after the other becomes a video: with our operator, and with the vendor's SDK in a plain task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from magichour_provider.operators import TalkingPhotoOperator

MEDIA, VIDEOS = Path(os.environ.get("STACK_MEDIA", "")), Path(os.environ.get("STACK_VIDEOS", ""))
SECONDS = 2.0  # of each clip
PEOPLE = ("ada", "alan", "grace")
FILES: list[dict[str, Any]] = [
    {
        "image_file_path": str(MEDIA / f"{who}.jpg"),
        "audio_file_path": str(MEDIA / f"{who}.mp3"),
        "name": f"photo {number}",
    }
    for number, who in (
        (number, PEOPLE[number % 3]) for number in range(int(os.environ.get("BENCH_NUMBER", "1")))
    )
]


def film(folder: str, image_file_path: str, audio_file_path: str, name: str) -> None:
    """What the vendor's documentation shows, in a task."""
    from airflow.sdk import Connection
    from magic_hour import Client

    account = Connection.get("magichour_default")
    client = Client(token=account.password, base_url=account.host)
    Path(folder).mkdir(parents=True)
    client.v1.ai_talking_photo.generate(
        assets={"image_file_path": image_file_path, "audio_file_path": audio_file_path},
        start_seconds=0.0,
        end_seconds=SECONDS,
        name=name,
        wait_for_completion=True,
        download_outputs=True,
        download_directory=folder,
    )


with DAG("operator", schedule=None):
    TalkingPhotoOperator.partial(
        task_id="film",
        deferrable=True,
        end_seconds=SECONDS,
        output_path=f"{VIDEOS}/operator/",
    ).expand_kwargs(FILES)

with DAG("sdk", schedule=None):
    PythonOperator.partial(task_id="film", python_callable=film).expand(
        op_kwargs=[{"folder": f"{VIDEOS}/sdk/{number}", **files} for number, files in enumerate(FILES)]
    )
