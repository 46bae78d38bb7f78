"""Credits in Airflow's own statistics, as a StatsD server sees them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Airflow

    from magichour_provider.emulator import Emulator

DAG = """
from airflow.sdk import DAG
from magichour_provider.operators import TalkingPhotoOperator
from magichour_provider.sensors import TalkingPhotoSensor

with DAG("metrics", schedule=None) as dag:
    video = TalkingPhotoOperator(task_id="video", **{inputs!r})
    TalkingPhotoSensor(task_id="same_job", job_id=video.output["job_id"])

if __name__ == "__main__":
    dag.test()
"""


def test_what_was_charged_is_counted_once(airflow: Airflow, emulator: Emulator, dags: Path) -> None:
    file = dags / "metrics.py"
    file.write_text(DAG.format(inputs=airflow.inputs))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        metrics = {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
        }
        subprocess.run([sys.executable, file], env=os.environ | metrics, check=True, capture_output=True)
        statsd.setblocking(False)
        seen = []
        while True:
            try:
                seen.append(statsd.recv(4096).decode())
            except BlockingIOError:
                break

    charged = emulator.jobs()[0]["credits_charged"]
    assert [line for line in seen if "magichour" in line] == [
        f"airflow.magichour.credits_charged:{charged}|c"
    ]
