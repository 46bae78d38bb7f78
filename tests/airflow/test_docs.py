"""The code in README and docs works as it stands; only folders and ids are the test's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from buckets import Buckets
    from harness import Airflow, Run

    from magichour_provider.emulator import Emulator

ROOT = Path(__file__).parents[2]
MEDIA = ROOT / "example_dags" / "media"


def code(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What the pages call ``/data``."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("ada.jpg", "ada.mp3"):
        shutil.copy(MEDIA / name, folder)
    shutil.copy(MEDIA / "ada.jpg", folder / "anchor.jpg")
    shutil.copy(MEDIA / "ada.mp3", folder / "news.mp3")
    return folder


def test_the_dag_in_the_readme_makes_a_video(
    airflow: Airflow, emulator: Emulator, dags: Path, data: Path
) -> None:
    (dag,) = code("README.md")
    file = dags / "readme.py"
    file.write_text(dag.replace("/data", str(data)))

    run = airflow.run_file(file)

    assert run.state("news") == "success"
    assert Path(run.result("news")["output_path"]).parent == data / "videos"
    assert emulator.charges() == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_operators_page(
    airflow: Airflow, emulator: Emulator, data: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.chdir(MEDIA)
    block = code("docs/operator.md")[number]

    run = airflow.run(block.replace("/data", str(data)))

    assert set(run.state("talking_photo").split(",")) == {"success"}
    assert emulator.charges() == len(run.instances("talking_photo"))


@pytest.mark.parametrize(("number", "videos"), [(0, 1), (1, 2)])
def test_the_page_from_text_to_video(
    airflow: Airflow, emulator: Emulator, data: Path, number: int, videos: int
) -> None:
    run = airflow.run(code("docs/text-to-video.md")[number].replace("/data", str(data)))

    assert {ti.state for task_id in run.dag.task_ids for ti in run.instances(task_id)} == {"success"}
    assert len(list((data / "videos").iterdir())) == videos
    assert emulator.charges() == 2 * videos


@pytest.mark.parametrize(("number", "paid"), [(0, 1), (1, 4)])
def test_the_page_of_the_tools(
    airflow: Airflow, emulator: Emulator, data: Path, number: int, paid: int
) -> None:
    run = airflow.run(code("docs/tools.md")[number].replace("/data", str(data)))

    assert {ti.state for task_id in run.dag.task_ids for ti in run.instances(task_id)} == {"success"}
    assert len(list((data / "videos").iterdir())) == 1
    assert emulator.charges() == paid


def test_the_sensors_page(airflow: Airflow, emulator: Emulator, data: Path) -> None:
    job_id = airflow.video(wait_for_completion=False).result()["job_id"]
    (block,) = code("docs/sensor.md")

    run = airflow.run(re.sub('job_id="[^"]+"', f'job_id="{job_id}"', block).replace("/data", str(data)))

    assert run.result()["output_path"] == str(data / "videos" / f"{job_id}.mp4")
    assert emulator.charges() == 1


def test_the_alert_on_the_reliability_page(
    airflow: Airflow, emulator: Emulator, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.fault("create", reset="after")
    (block,) = code("docs/reliability.md")

    run = airflow.run(block.replace("/data", str(data)))

    assert run.state() == "failed"
    assert "A person has to decide: the paid call" in capsys.readouterr().out


def test_the_connection_page(
    emulator: Emulator, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    account, by_hand, asynchronous = code("docs/connection.md")
    exec(account, {})
    assert capsys.readouterr().out.strip() == f"business {emulator.credits}"

    exec(by_hand.replace("/data", str(data)), {})
    (job,) = emulator.jobs()
    assert capsys.readouterr().out.split() == ["complete", str(data / "videos" / f"{job['id']}.mp4")]

    exec(re.sub(r'watch\("[^"]+"\)', f'watch("{job["id"]}")', asynchronous), {})
    assert capsys.readouterr().out.strip() == "complete"

    from magichour_provider.hooks import MagicHourHook

    shown = re.findall(
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT='(.+)'", "".join(code("docs/connection.md", "console"))
    )
    seen = []
    for connection in shown:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", connection)
        settings = MagicHourHook().settings
        seen.append((settings.base_url, settings.api_key, settings.timeout, settings.poll_interval))
    assert seen == [
        ("https://api.magichour.ai", "YOUR_KEY", 30, None),
        ("http://127.0.0.1:8787", "YOUR_KEY", 60, 0.5),
    ]


def test_the_task_on_the_page_about_deploying(airflow: Airflow, emulator: Emulator, data: Path) -> None:
    (block,) = code("docs/deploy.md")
    assert airflow.run(block.replace("/data", str(data))).state() == "success"
    assert emulator.charges() == 1


def test_the_page_about_voices(capsys: pytest.CaptureFixture[str]) -> None:
    from magichour_provider.emulator.__main__ import main

    (block,) = code("docs/voices.md", "console")
    *_, command, answer = block.splitlines()
    assert main(command.split()[4:]) == 0
    assert capsys.readouterr().out == f"{answer}\n"


# --- recipes ---


@pytest.fixture
def recipe(airflow: Airflow, dags: Path, data: Path) -> Callable[..., Run]:
    """Runs a recipe's DAG file, with the test's folder for ``/data``."""

    def run(heading: str, params: dict[str, object] | None = None) -> Run:
        page = (ROOT / "docs/recipes.md").read_text().partition(f"## {heading}\n")[2]
        (block, *_) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        file = dags / "recipe.py"
        file.write_text(block.replace("/data", str(data)))
        return airflow.run_file(file, params)

    return run


@pytest.fixture
def manifest(data: Path) -> None:
    seconds = {"ada": 4.6, "news": 2.0}
    photos = {"ada": "ada.jpg", "news": "anchor.jpg"}
    rows = [
        {
            "image_file_path": f"{data}/{photos[who]}",
            "audio_file_path": f"{data}/{who}.mp3",
            "end_seconds": end,
        }
        for who, end in seconds.items()
    ]
    (data / "manifest.json").write_text(json.dumps(rows))


@pytest.mark.usefixtures("manifest")
def test_a_night_within_its_budget(recipe: Callable[..., Run], emulator: Emulator, data: Path) -> None:
    emulator.credits = 1000 + 221 + 96  # the reserve, and what both videos need

    run = recipe("Every night, within a budget")

    assert run.state() == "success,success"
    assert run.result("what_it_cost") == 221 + 96
    assert emulator.credits == 1000
    assert len(list((data / "videos").rglob("*.mp4"))) == 2


@pytest.mark.usefixtures("manifest")
def test_a_night_above_its_budget_pays_for_nothing(recipe: Callable[..., Run], emulator: Emulator) -> None:
    emulator.credits = 1000 + 221 + 95

    run = recipe("Every night, within a budget")

    assert run.state("within_budget") == "failed"
    (error,) = run.errors("within_budget")
    assert "2 videos need 317 credits" in error
    assert emulator.charges() == 0
    assert emulator.requests("upload_urls") == []


@pytest.mark.usefixtures("manifest")
def test_a_clip_without_an_end_counts_with_its_limit(
    recipe: Callable[..., Run], emulator: Emulator, data: Path
) -> None:
    manifest = data / "manifest.json"
    ada, news = json.loads(manifest.read_text())
    del news["end_seconds"]
    manifest.write_text(json.dumps([ada, news]))
    emulator.credits = 1000 + 221 + 499

    run = recipe("Every night, within a budget")

    (error,) = run.errors("within_budget")
    assert "2 videos need 721 credits" in error
    assert emulator.charges() == 0


def test_a_batch_makes_one_event(recipe: Callable[..., Run], emulator: Emulator) -> None:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    run = recipe("One event for a whole batch")

    assert run.result("announce") == 2
    with create_session() as session:
        (event,) = session.query(AssetEvent).filter_by(source_run_id=run.instances("announce")[0].run_id)
        assert len(event.extra["paths"]) == 2
    assert emulator.charges() == 2


def test_a_video_that_is_not_approved_yet_is_not_published(
    recipe: Callable[..., Run], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    def unanswered(_: ApprovalOperator, context: object) -> None:
        raise RuntimeError("no person is here")  # a parked task would stop the test

    monkeypatch.setattr(ApprovalOperator, "execute", unanswered)

    run = recipe("Approve before publishing")

    assert (run.state("video"), run.state("approve")) == ("success", "failed")
    assert run.state("publish") == "upstream_failed"
    assert emulator.charges() == 1


def test_from_a_bucket_into_a_bucket(
    airflow: Airflow, emulator: Emulator, s3: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MEDIA_STORE", s3.connection())
    s3.put("people/ada.jpg", (MEDIA / "ada.jpg").read_bytes())
    s3.put("voices/ada.mp3", (MEDIA / "ada.mp3").read_bytes())
    (block,) = (block for block in code("docs/recipes.md") if "s3://" in block)

    run = airflow.run(block)

    assert run.state() == "success", run.errors()
    assert run.result()["output_path"].removeprefix("s3://media_store@media/") in s3.keys()  # noqa: SIM118


def test_download_a_job_that_no_task_waits_for(
    airflow: Airflow, emulator: Emulator, recipe: Callable[..., Run], data: Path
) -> None:
    job_id = airflow.video(wait_for_completion=False).result()["job_id"]

    run = recipe("Download a job that no task waits for", {"job_id": job_id})

    assert run.result()["output_path"] == str(data / "videos" / f"{job_id}.mp4")
    assert emulator.charges() == 1


@pytest.mark.parametrize(("credits", "state"), [(10_000, "success"), (9_999, "failed")])
def test_the_alert_on_low_credits(
    recipe: Callable[..., Run],
    emulator: Emulator,
    capsys: pytest.CaptureFixture[str],
    credits: int,  # noqa: A002
    state: str,
) -> None:
    emulator.credits = credits
    run = recipe("An alert before the credits are used up")
    assert run.state("enough_credits") == state
    assert ("Magic Hour: only 9999 credits are left" in capsys.readouterr().out) == (state == "failed")
