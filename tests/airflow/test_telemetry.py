"""What logs, metrics, assets, rendered fields and OpenLineage say of a job."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS
from harness import HEADER, both_modes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from buckets import Buckets
    from harness import Airflow, Run

    from magichour_provider.emulator import Emulator

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


def run_apart(airflow: Airflow, dags: Path, tasks: str, **environment: str) -> None:
    """Run a DAG in a process of its own, since Airflow reads these settings when it is imported."""
    file = dags / "apart.py"
    body = textwrap.indent(textwrap.dedent(tasks), "    ")
    at_once = "default_args={'retry_delay': datetime.timedelta(0)}"
    file.write_text(
        f"{HEADER}\nVIDEO = {airflow.inputs!r}\nwith DAG('apart', schedule=None, {at_once}) as dag:\n{body}\n"
        "if __name__ == '__main__':\n"
        "    from functools import cache\n"
        "    from airflow.sdk.execution_time import supervisor\n"
        "    supervisor.in_process_api_server = cache(supervisor.in_process_api_server)  # as in harness.py\n"
        "    dag.test()\n"
    )
    subprocess.run([sys.executable, file], env=os.environ | environment, check=True, capture_output=True)


def heard_by_statsd(airflow: Airflow, dags: Path, tasks: str, *, tags: bool = False) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        run_apart(
            airflow,
            dags,
            tasks,
            AIRFLOW__METRICS__STATSD_ON="True",
            AIRFLOW__METRICS__STATSD_HOST="127.0.0.1",
            AIRFLOW__METRICS__STATSD_PORT=str(statsd.getsockname()[1]),
            AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED=str(tags),
        )
        statsd.setblocking(False)
        heard = [line.removeprefix("airflow.") for line in _everything(statsd) if "magichour" in line]
    return [re.sub(r"(render_time\.\w+):[\d.]+", r"\1:N", line) for line in heard]


def _everything(statsd: socket.socket) -> Iterator[str]:
    while True:
        try:
            yield statsd.recv(4096).decode()
        except BlockingIOError:
            return


def test_what_was_charged_is_counted_once_and_what_goes_wrong_by_its_name(
    airflow: Airflow, emulator: Emulator, dags: Path
) -> None:
    emulator.fault("get_video", status=429, headers={"Retry-After": "0"})
    emulator.fault("create", name="wrong", ends="error:no_source_face")
    heard = heard_by_statsd(
        airflow,
        dags,
        """
        sync = TalkingPhotoOperator(task_id="sync", **VIDEO)
        same_job = TalkingPhotoSensor(task_id="same_job", job_id=sync.output["job_id"])
        deferred = TalkingPhotoOperator(task_id="deferred", deferrable=True, **VIDEO)
        wrong = TalkingPhotoOperator(task_id="wrong", name="wrong", retries=2, **VIDEO)
        sync >> same_job >> deferred >> wrong
        """,
    )
    submitted = ["magichour.jobs.submitted:1|c", "magichour.credits_estimated:48|c", "magichour.polls:1|c"]
    polled_again = ["magichour.rate_limited:1|c", "magichour.polls:1|c"]
    rendered = ["magichour.render_time.video:N|ms"]
    charged = ["magichour.credits_charged:48|c", "magichour.jobs.complete:1|c"]
    assert heard == [
        *submitted,
        *polled_again,
        *rendered,
        *charged,
        *("magichour.polls:1|c", "magichour.jobs.complete:1|c"),  # the sensor's
        *submitted,
        *rendered,
        *charged,
        *submitted,
        "magichour.credits_refunded:48|c",
        "magichour.errors.JobFailed:1|c",
    ]


def total(heard: list[str], metric: str) -> int:
    """The sum of a counter."""
    return sum(int(line.partition(":")[2].partition("|")[0]) for line in heard if line.startswith(metric))


def test_the_sum_of_what_was_charged_is_the_bill_whatever_was_retried(
    airflow: Airflow, emulator: Emulator, dags: Path
) -> None:
    emulator.fault("create", name="fails", ends="error:timeout", times=1)
    emulator.fault("create", name="canceled", ends="canceled")
    emulator.fault("download", status=500, times=4)  # so that a task has a second try
    before = emulator.credits
    heard = heard_by_statsd(
        airflow,
        dags,
        f"""
        folder = {str(airflow.folder)!r} + "/"
        made = TalkingPhotoOperator(task_id="made", output_path=folder, retries=1, **VIDEO)
        fails = TalkingPhotoOperator(task_id="fails", name="fails", retries=1, **VIDEO)
        again = TalkingPhotoSensor(task_id="again", job_id=fails.output["job_id"])
        left = TalkingPhotoOperator(task_id="left", wait_for_completion=False, **VIDEO)
        gone = TalkingPhotoOperator(task_id="gone", name="canceled", **VIDEO)
        made >> fails >> again >> left >> gone
        """,
    )
    assert total(heard, "magichour.credits_charged") == before - emulator.credits == 3 * 48
    assert total(heard, "magichour.credits_estimated") == 5 * 48
    assert total(heard, "magichour.credits_refunded") == 2 * 48


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


@both_modes
def test_metrics_have_the_tags_of_their_task(
    airflow: Airflow, emulator: Emulator, dags: Path, deferrable: bool
) -> None:
    heard = heard_by_statsd(
        airflow,
        dags,
        f"""
        TalkingPhotoOperator(task_id="video", deferrable={deferrable}, **VIDEO)
        TalkingPhotoSensor(task_id="unknown", job_id="cm0", deferrable={deferrable}, timeout=0.01)
        """,
        tags=True,
    )
    by_trigger = re.compile(r"magichour\.(polls|render_time)")  # dag.test() does not tell a trigger its task
    tagged = [line for line in heard if not (deferrable and by_trigger.match(line))]
    assert len(tagged) > 4
    for line in tagged:
        assert re.match(r"magichour\.[\w.]+,dag_id=apart,task_id=(video|unknown):", line), line


def test_every_metric_is_on_the_page() -> None:
    from pathlib import Path

    import magichour_provider

    package = Path(magichour_provider.__file__).parent
    source = (package / "telemetry.py").read_text("utf-8")
    used = {f"magichour.{name}" for name in re.findall(r'(?:count\(f?"|PREFIX\})([a-z_.]+)', source)}
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


def lineage(airflow: Airflow, dags: Path, tasks: str) -> dict[str, Any]:
    """The event with which each task ended, by the task's id."""
    if find_spec("airflow.providers.openlineage") is None:
        pytest.skip("apache-airflow-providers-openlineage is not installed: requirements/dev.txt has it")
    file = airflow.folder / "lineage.json"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    run_apart(airflow, dags, tasks, AIRFLOW__OPENLINEAGE__TRANSPORT=json.dumps(transport))
    events = [json.loads(line) for line in file.read_text().splitlines()]
    return {
        event["job"]["name"].removeprefix("apart."): event
        for event in events
        if event["eventType"] in ("COMPLETE", "FAIL")
    }


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(dataset["namespace"], dataset["name"]) for dataset in datasets]


def test_openlineage_hears_where_files_come_from_and_go_and_no_signature(
    airflow: Airflow, emulator: Emulator, dags: Path, s3: Buckets
) -> None:
    s3.put("people/ada.jpg", airflow.photo.read_bytes())

    events = lineage(
        airflow,
        dags,
        """
        voice = VoiceGeneratorOperator(task_id="voice", prompt="Good evening.", voice_name="Albert Einstein")
        TalkingPhotoOperator(
            task_id="spoken",
            image_file_path="https://127.0.0.1:9/photos/me.jpg?X-Signature=secret",
            audio_file_path=voice.output["audio_file_path"],
            end_seconds=1,
        )
        VIDEO["image_file_path"] = "s3://store@media/people/ada.jpg"
        TalkingPhotoOperator(
            task_id="stored", output_path="s3://store@media/videos/", deferrable=True, **VIDEO
        )
        """,
    )

    (voice,) = [job for job in emulator.jobs() if job["job_type"] == "audio"]
    videos = [job for job in emulator.jobs() if job["job_type"] == "video"]
    said = ("https://magichour.ai", f"my-library?audioId={voice['id']}")
    assert names(events["voice"]["outputs"]) == [said]
    assert names(events["spoken"]["inputs"]) == [("https://127.0.0.1:9", "photos/me.jpg"), said]
    assert names(events["spoken"]["outputs"]) == []
    assert "secret" not in json.dumps(events["spoken"]["inputs"])

    facet = events["stored"]["run"]["facets"]["externalQuery"]
    assert facet["source"] == "magichour"
    assert facet["externalQueryId"] in [job["id"] for job in videos]
    assert names(events["stored"]["inputs"]) == [
        ("s3://media", "people/ada.jpg"),
        ("file", str(airflow.voice)),
    ]
    assert names(events["stored"]["outputs"]) == [("s3://media", f"videos/{facet['externalQueryId']}.mp4")]


def test_openlineage_hears_what_each_task_cost_also_of_one_that_failed(
    airflow: Airflow, emulator: Emulator, dags: Path
) -> None:
    emulator.fault("create", name="failing", ends="error:no_source_face")
    events = lineage(
        airflow,
        dags,
        """
        TalkingPhotoOperator(task_id="made", deferrable=True, **VIDEO)
        TalkingPhotoOperator(task_id="failing", name="failing", **VIDEO)
        TalkingPhotoOperator(task_id="dear", max_credits=1, **VIDEO)
        """,
    )

    ids = {job["name"].partition(" ")[0]: job["id"] for job in emulator.jobs()}
    told = {
        task_id: {key: value for key, value in facet.items() if not key.startswith("_")}
        for task_id, event in events.items()
        if (facet := event["run"]["facets"].get("magichour_job"))
    }
    assert told == {
        "made": {"job_id": ids["apart.made"], "charged": "yes", "credits": 48},
        "failing": {
            "job_id": ids["failing"],
            "charged": "refunded",
            "credits": 48,
            "error": "JobFailed",
            "error_code": "no_source_face",
        },
        "dear": {"charged": "no", "credits": 48, "error": "CreditLimitExceeded"},
    }
    assert events["failing"]["run"]["facets"]["externalQuery"]["externalQueryId"] == ids["failing"]
