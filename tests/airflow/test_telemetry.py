"""What logs, metrics, assets, rendered fields and OpenLineage say of a job."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS
from harness import HEADER, PHOTO, both_modes, write_silence

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from buckets import Buckets
    from harness import Airflow, Run

# --- the log ---


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Callable[[Emulator], list[str]]:
    """What the log says of the emulator's only job, without its id, and with numbers for the seconds."""

    def read(emulator: Emulator) -> list[str]:
        (job,) = emulator.jobs()
        said = [
            re.sub(r"\x1b\[\d*m", "", line).partition("] ")[2]
            for line in capfd.readouterr().out.splitlines()
            if job["id"] in line and "[info " in re.sub(r"\x1b\[\d*m", "", line)
        ]
        short = [re.sub(r"\s+\[[\w.]+\].*", "", line).replace(job["id"], "JOB") for line in said]
        return [
            re.sub(r"after \d+ s", "after N s", re.sub("mh-[0-9a-f]{8}", "mh-ID", line)) for line in short
        ]

    return read


@both_modes
def test_the_log_of_an_operator_has_a_line_for_each_change_and_none_for_each_poll(
    airflow: Airflow, emulator: Emulator, lines: Callable[[Emulator], list[str]], deferrable: bool
) -> None:
    emulator.progression = "polls:8"
    video = airflow.folder / "video.mp4"

    run = airflow.video(output_path=str(video), deferrable=deferrable)

    assert len(emulator.requests("get_video")) >= 8
    size = "{width} x {height}".format(**run.result())
    assert [line for line in lines(emulator) if not line.startswith("Waiting")] == [
        "Submitted job JOB [mh-ID], 48 credits charged (an estimate until it is complete)",
        "Job JOB is queued after N s",
        "Job JOB is rendering after N s",
        "Job JOB is complete after N s, 48 credits charged",
        f"Downloading the video of job JOB to {video}",
        f"Job JOB is in {video}: 1 s, {size}, 48 credits",
    ]


@both_modes
def test_the_log_of_a_sensor_has_a_line_for_each_change_and_none_for_each_poll(
    airflow: Airflow,
    emulator: Emulator,
    submit: Callable[[], str],
    lines: Callable[[Emulator], list[str]],
    deferrable: bool,
) -> None:
    emulator.progression = "polls:8"

    airflow.sense(submit(), poke_interval=0.01, deferrable=deferrable)

    said = lines(emulator)
    assert [line for line in said if "queued" in line][:1] == ["Job JOB is queued"]
    assert [line for line in said if "rendering" in line] == ["Job JOB is rendering after N s"]
    assert [line for line in said if "complete" in line] == [
        "Job JOB is complete after N s, 48 credits charged"
    ]
    assert len(said) <= 6


def test_the_age_of_a_job_that_ended_before_the_sensor_came_is_not_logged(
    airflow: Airflow,
    emulator: Emulator,
    submit: Callable[[], str],
    lines: Callable[[Emulator], list[str]],
) -> None:
    airflow.sense(submit())
    assert "Job JOB is complete, 48 credits charged" in lines(emulator)


# --- metrics ---


DAG_OF_EACH_KIND = """
    sync = TalkingPhotoOperator(task_id="sync", name="sync", output_path=FOLDER, retries=1, **VIDEO)
    same_job = TalkingPhotoSensor(task_id="same_job", job_id=sync.output["job_id"])
    deferred = TalkingPhotoOperator(task_id="deferred", deferrable=True, **VIDEO)
    refunded = TalkingPhotoOperator(task_id="refunded", name="refunded", retries=1, **VIDEO)
    canceled = TalkingPhotoOperator(task_id="canceled", name="canceled", **VIDEO)
    left = TalkingPhotoOperator(task_id="left", wait_for_completion=False, **VIDEO)
    dear = TalkingPhotoOperator(task_id="dear", max_credits=1, **VIDEO)
    unknown = TalkingPhotoSensor(task_id="unknown", job_id="cm0", timeout=0.01)
    unknown_too = TalkingPhotoSensor(task_id="unknown_too", job_id="cm0", timeout=0.01, deferrable=True)
    voice = VoiceGeneratorOperator(task_id="voice", prompt="Good evening.", voice_name="Albert Einstein")
    FILES = {
        "image_file_path": "https://127.0.0.1:9/photos/me.jpg?X-Signature=secret",
        "audio_file_path": voice.output["audio_file_path"],
    }
    spoken = TalkingPhotoOperator(task_id="spoken", end_seconds=1, **FILES)
    VIDEO["image_file_path"] = "s3://store@media/people/ada.jpg"
    stored = TalkingPhotoOperator(
        task_id="stored", output_path="s3://store@media/videos/", deferrable=True, **VIDEO
    )
    sync >> same_job >> deferred >> refunded >> canceled
    left >> voice
"""


@dataclass
class Heard:
    """What statsd and OpenLineage heard of a DAG with a task of each kind, and what Magic Hour counted."""

    statsd: list[str]
    lineage: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    spent: int

    def metrics(self, task_id: str) -> list[str]:
        """Those of one task, without tags, and with a letter for each time."""
        mine = [line for line in self.statsd if f",task_id={task_id}:" in line]
        short = [re.sub(r",[^:]*", "", line) for line in mine]
        return [re.sub(r"(render_time\.\w+):[\d.]+", r"\1:N", line) for line in short]

    def total(self, metric: str) -> int:
        """The sum of a counter."""
        lines = [line for line in self.statsd if line.startswith(f"{metric},")]
        return sum(int(line.partition(":")[2].partition("|")[0]) for line in lines)

    def ended(self, task_id: str) -> dict[str, Any]:
        """The event of OpenLineage with which a task ended."""
        (event,) = [
            event
            for event in self.lineage
            if event["job"]["name"] == f"apart.{task_id}" and event["eventType"] in ("COMPLETE", "FAIL")
        ]
        return event

    def job(self, task_id: str) -> str:
        """The id of the task's last job."""
        mine = [job for job in self.jobs if job["name"].split()[0] in (task_id, f"apart.{task_id}")]
        return str(mine[-1]["id"])


@pytest.fixture(scope="module")
def runs(database: Path, s3_server: Buckets, tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """The DAG runs in a process of its own, since Airflow reads these settings when it is imported."""
    if find_spec("airflow.providers.openlineage") is None:
        pytest.skip("apache-airflow-providers-openlineage is not installed: requirements/dev.txt has it")
    folder = tmp_path_factory.mktemp("apart")
    inputs = {"image_file_path": str(folder / "photo.jpg"), "audio_file_path": str(folder / "voice.wav")}
    (folder / "photo.jpg").write_bytes(PHOTO)
    write_silence(folder / "voice.wav", 4)
    s3_server.client.create_bucket(Bucket="media")
    s3_server.put("people/ada.jpg", PHOTO)
    lineage = folder / "lineage.json"
    transport = {"type": "file", "log_file_path": str(lineage), "append": True}
    (folder / "dags").mkdir()
    file = folder / "dags" / "apart.py"
    file.write_text(
        f"{HEADER}\nVIDEO = {inputs | {'end_seconds': 1}!r}\nFOLDER = '{folder}/out/'\n"
        "at_once = {'retry_delay': datetime.timedelta(0), 'trigger_rule': 'all_done'}\n"
        "with DAG('apart', schedule=None, default_args=at_once) as dag:\n"
        f"{DAG_OF_EACH_KIND}\n"
        "if __name__ == '__main__':\n"
        "    from tools import lean_api\n"
        "    lean_api.use()\n"
        "    dag.test()\n"
    )
    with (
        Emulator(render="stub", poll_interval=0.02) as emulator,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd,
    ):
        emulator.fault("get_video", name="sync", status=429, headers={"Retry-After": "0"})
        emulator.fault("download", name="sync", status=500, times=4)  # so that the task has a second try
        emulator.fault("create", name="refunded", ends="error:timeout", times=1)
        emulator.fault("create", name="canceled", ends="canceled")
        before = emulator.credits
        statsd.bind(("127.0.0.1", 0))
        statsd.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        environment = {
            "AIRFLOW__CORE__DAGS_FOLDER": str(file.parent),
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            "AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD": "True",  # a fork for each event takes most of the time
            "AIRFLOW_CONN_MAGICHOUR_DEFAULT": emulator.connection_json,
            "AIRFLOW_CONN_STORE": s3_server.connection(),
            "PYTHONPATH": str(Path(__file__).parents[2]),  # for tools/
        }
        subprocess.run([sys.executable, file], env=os.environ | environment, check=True, capture_output=True)
        statsd.setblocking(False)
        heard = [line.removeprefix("airflow.") for line in _everything(statsd) if "magichour" in line]
        events = [json.loads(line) for line in lineage.read_text().splitlines()]
        s3_server.reset()
        return Heard(heard, events, emulator.jobs(), before - emulator.credits)


def _everything(statsd: socket.socket) -> Iterator[str]:
    while True:
        try:
            yield statsd.recv(4096).decode()
        except BlockingIOError:
            return


SUBMITTED = ["magichour.jobs.submitted:1|c", "magichour.credits_estimated:48|c"]
CHARGED = ["magichour.credits_charged:48|c", "magichour.jobs.complete:1|c"]
RENDERED = ["magichour.polls:1|c", "magichour.render_time.video:N|ms"]


def test_what_was_charged_is_counted_once_whatever_was_tried_again(runs: Heard) -> None:
    rate_limited = ["magichour.polls:1|c", "magichour.rate_limited:1|c"]
    again = ["magichour.errors.DownloadFailed:1|c", "magichour.polls:1|c"]
    assert runs.metrics("sync") == [*SUBMITTED, *rate_limited, *RENDERED, *again, *CHARGED]
    assert runs.metrics("same_job") == ["magichour.polls:1|c", "magichour.jobs.complete:1|c"]
    assert runs.metrics("deferred") == [*SUBMITTED, *CHARGED]
    assert runs.metrics("dear") == ["magichour.errors.CreditLimitExceeded:1|c"]


def test_what_goes_wrong_is_counted_by_its_name(runs: Heard) -> None:
    failed = ["magichour.credits_refunded:48|c", "magichour.errors.JobFailed:1|c"]
    canceled = ["magichour.credits_refunded:48|c", "magichour.errors.JobCanceled:1|c"]
    one_poll = ["magichour.polls:1|c"]
    assert runs.metrics("refunded") == [*SUBMITTED, *one_poll, *failed, *SUBMITTED, *RENDERED, *CHARGED]
    assert runs.metrics("canceled") == [*SUBMITTED, *one_poll, *canceled]


def test_the_sum_of_what_was_charged_is_the_bill(runs: Heard) -> None:
    estimated, refunded = runs.total("magichour.credits_estimated"), runs.total("magichour.credits_refunded")
    assert runs.total("magichour.credits_charged") == runs.spent == estimated - refunded
    assert refunded == 2 * 48


def test_metrics_have_the_tags_of_their_task(runs: Heard) -> None:
    by_trigger = re.compile(r"magichour\.(polls|render_time)")  # dag.test() gives a trigger no task
    tagged = [line for line in runs.statsd if ",dag_id=apart,task_id=" in line]
    assert {line for line in runs.statsd if line not in tagged and not by_trigger.match(line)} == set()
    for task_id in ("unknown", "unknown_too"):
        assert any(line.startswith("magichour.errors.") for line in runs.metrics(task_id)), task_id
    assert len(tagged) > 30


def test_a_refund_that_no_task_has_waited_for_is_counted_by_the_next_try(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.progression = "manual"
    run = airflow.video(timeout=0.01)
    emulator.fail(emulator.jobs()[0]["id"], "timeout")
    emulator.progression = "instant"
    heard = Counter[str]()
    monkeypatch.setattr(
        "magichour_provider.telemetry.Stats.incr", lambda name, number, **_: heard.update({name: number})
    )

    run.clear()

    assert run.state() == "success"
    assert heard["magichour.credits_refunded"] == heard["magichour.credits_charged"] == 48


def test_every_metric_is_on_the_page() -> None:
    import magichour_provider

    package = Path(magichour_provider.__file__).parent
    sources = [(package / name).read_text("utf-8") for name in ("telemetry.py", "plugin/webhooks.py")]
    name = re.compile(r'(?:\bcount\(f?"|PREFIX\})([a-z_.]+)')
    used = {f"magichour.{found}" for source in sources for found in name.findall(source)}
    page = package.parent / "docs" / "operator.md"
    if not page.exists():
        pytest.skip("docs/ is not here")
    listed = set(re.findall(r"^\| `(magichour\.[a-z_.]+)", page.read_text("utf-8"), re.MULTILINE))
    assert used == listed


# --- assets ---


OUTLETS = {
    "an asset": ('Asset("told", "file:///told")', "file:///told"),
    "an asset by its name": ('Asset.ref(name="told")', "file:///told"),
    "an asset by its URI": ('Asset.ref(uri="file:///told")', "file:///told"),
    "an alias": ('AssetAlias("told_alias")', "file://{output_path}"),
}


def asset_event(run: Run) -> tuple[str, dict[str, Any]]:
    """The URI of the only asset that heard of the run, and the event's extra."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        (event,) = session.query(AssetEvent).filter_by(source_dag_id=run.dag.dag_id)
        return event.uri, event.extra


def with_outlet(airflow: Airflow, outlet: str, **more: Any) -> Run:
    """Run a DAG of one video with this outlet."""
    return airflow.run(
        f"""
        from airflow.sdk import Asset, AssetAlias

        known = Asset("told", "file:///told")

        TalkingPhotoOperator(task_id="video", inlets=[known], outlets=[{outlet}], **VIDEO, **MORE)
        """,
        MORE=more,
    )


@both_modes
@pytest.mark.parametrize("kind", OUTLETS)
def test_an_outlets_event_says_what_was_made(
    airflow: Airflow, emulator: Emulator, kind: str, deferrable: bool
) -> None:
    outlet, uri = OUTLETS[kind]
    run = with_outlet(airflow, outlet, output_path=f"{airflow.folder}/out put/", deferrable=deferrable)

    result = run.result()
    told, extra = asset_event(run)
    assert told == uri.format(**result).replace(" ", "%20")
    assert {key: extra[key] for key in ("job_id", "credits_charged", "duration_seconds", "output_path")} == {
        "job_id": emulator.jobs()[0]["id"],
        "credits_charged": 48,
        "duration_seconds": 1.0,
        "output_path": result["output_path"],
    }


@pytest.mark.parametrize("kind", ["an asset", "an alias"])
def test_an_outlets_event_holds_no_signed_url(airflow: Airflow, emulator: Emulator, kind: str) -> None:
    run = with_outlet(airflow, OUTLETS[kind][0])
    uri, extra = asset_event(run)
    job_id = run.result()["job_id"]
    assert extra["job_id"] == job_id
    assert "http" not in json.dumps(extra)
    assert uri in ("file:///told", f"https://magichour.ai/my-library?videoId={job_id}")


def test_a_condition_as_an_outlet_does_not_fail_a_task_that_has_paid(
    airflow: Airflow, emulator: Emulator
) -> None:
    assert with_outlet(airflow, 'AssetAlias("a") | known').state() == "success"


# --- rendered fields ---


@pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow 3.0 takes none after a try that is to be retried")
def test_the_rendered_fields_show_what_was_sent(airflow: Airflow, emulator: Emulator) -> None:
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session

    emulator.fault("download", status=500, times=4)  # so that there is a second try
    run = airflow.video(
        name="{{ 'Ada' }}",
        end_seconds="{{ 1.5 }}",
        output_path=f"{airflow.folder}/out/",
        deferrable=True,
        retries=1,
    )

    assert run.state() == "success"
    with create_session() as session:
        (fields,) = session.query(RenderedTaskInstanceFields).filter_by(dag_id=run.dag.dag_id)
        shown = fields.rendered_fields
    (sent,) = (request["json"] for request in emulator.requests("create"))
    assert (shown["name"], float(shown["end_seconds"])) == (sent["name"], 1.5)
    assert shown["name"].startswith("Ada [mh-")


# --- OpenLineage ---


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(dataset["namespace"], dataset["name"]) for dataset in datasets]


def test_openlineage_hears_where_files_come_from_and_go_and_no_signature(runs: Heard) -> None:
    voice, spoken, stored = (runs.ended(task_id) for task_id in ("voice", "spoken", "stored"))
    said = ("https://magichour.ai", f"my-library?audioId={runs.job('voice')}")
    assert names(voice["outputs"]) == [said]
    assert names(spoken["inputs"]) == [("https://127.0.0.1:9", "photos/me.jpg"), said]
    assert names(spoken["outputs"]) == []
    assert "secret" not in json.dumps(spoken["inputs"])

    photo, local = names(stored["inputs"])
    assert photo == ("s3://media", "people/ada.jpg")
    assert local[0] == "file"
    assert local[1].endswith("/voice.wav")
    assert names(stored["outputs"]) == [("s3://media", f"videos/{runs.job('stored')}.mp4")]
    query = stored["run"]["facets"]["externalQuery"]
    assert (query["source"], query["externalQueryId"]) == ("magichour", runs.job("stored"))


def test_openlineage_hears_what_each_task_cost_also_of_one_that_failed(runs: Heard) -> None:
    told = {
        task_id: {key: value for key, value in facet.items() if not key.startswith("_")}
        for task_id in ("deferred", "canceled", "dear")
        if (facet := runs.ended(task_id)["run"]["facets"]["magichour_job"])
    }
    assert told == {
        "deferred": {"job_id": runs.job("deferred"), "charged": "yes", "credits": 48},
        "canceled": {
            "job_id": runs.job("canceled"),
            "charged": "refunded",
            "credits": 48,
            "error": "JobCanceled",
        },
        "dear": {"charged": "no", "credits": 48, "error": "CreditLimitExceeded"},
    }
    query = runs.ended("canceled")["run"]["facets"]["externalQuery"]
    assert query["externalQueryId"] == runs.job("canceled")
