"""The emulator as a program: its start and end, its page, the pytest plugin, and its resource usage."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from emulator_http import connect, ended, talking_photo

from magichour_provider.emulator import Emulator
from magichour_provider.emulator.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "magichour_provider.emulator"]


@contextmanager
def running(*arguments: str, env: dict[str, str] | None = None) -> Iterator[tuple[Any, Any]]:
    """Run the command. Yield its process, and the JSON that it printed."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | (env or {}),
    )
    assert process.stdout
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_the_command_serves_until_it_is_stopped_and_leaves_nothing(
    tmp_path: Path, photo: Path, voice: Path
) -> None:
    ready_file, files = tmp_path / "ready.json", tmp_path / "files"
    files.mkdir()
    options = ["--ready-file", str(ready_file), "--progression", "instant", "--credits", "500"]
    with running(*options, env={"TMPDIR": str(files)}) as (process, ready):
        assert json.loads(ready_file.read_text("utf-8")) == ready
        assert ready["connection"]["password"] == ready["api_key"]
        with Emulator.attach(ready["url"]) as handle:
            assert handle.connection["host"] == ready["url"] == handle.url
            assert handle.credits == 500
            http = connect(handle)
            body = talking_photo(handle, photo, voice, end_seconds=0.5)
            job = http.post("/v1/ai-talking-photo", json=body).json()
            assert ended(http, f"/v1/video-projects/{job['id']}")["status"] == "complete"
        # The end of the handle does not stop the server, because the handle did not start it.
        assert http.get("/v1/account").status_code == 200
        http.close()
        assert list(files.iterdir())
        workers = children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert list(files.iterdir()) == [], "there are files left"
        assert not [worker for worker in workers if alive(worker)], "there are processes left"


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8")
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").split()[2] != "Z"
    except OSError:
        return False


def test_the_command_prints_its_address_and_a_connection() -> None:
    process = subprocess.Popen([*COMMAND, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    lines: list[str] = []
    while not lines or "AIRFLOW_CONN" not in lines[-1]:
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 0
    process.stdout.close()
    url = lines[0].split()[-1]
    assert f"admin page   {url}/" in "".join(lines)
    connection = lines[-1].removeprefix("export AIRFLOW_CONN_MAGICHOUR_DEFAULT=").strip().strip("'")
    assert json.loads(connection)["host"] == url


def test_a_client_that_disconnects_causes_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with Emulator(render="stub") as emulator:
        items = {"items": [{"type": "image", "extension": "png"}]}
        with connect(emulator) as http:
            response = http.post("/v1/files/upload-urls", json=items).json()
        upload_url = response["items"][0]["upload_url"]
        for method, url in (("PUT", upload_url), ("POST", f"{emulator.url}/v1/ai-talking-photo")):
            parts = urlsplit(url)
            with socket.create_connection((parts.hostname, parts.port)) as connection:
                target = f"{parts.path}?{parts.query}"
                connection.sendall(
                    f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nabc".encode()
                )
                while not any(request["method"] == method for request in emulator.requests()[1:]):
                    pass
    assert caplog.records == []


def test_a_stop_while_renders_wait_causes_no_log(caplog: pytest.LogCaptureFixture) -> None:
    library = "https://magichour.ai/my-library"
    assets = {"image_file_path": f"{library}?imageId=a", "audio_file_path": f"{library}?audioId=a"}
    with Emulator(progression="manual") as emulator, connect(emulator) as http:
        for end in (0.1, 20, 21, 22):
            body = {"start_seconds": 0, "end_seconds": end, "assets": assets}
            assert http.post("/v1/ai-talking-photo", json=body).status_code == 200
        # When the first job is complete, the second one renders, and the other two wait.
        emulator.move(emulator.jobs()[0]["id"], "complete")
    for thread in threading.enumerate():
        if thread.name.startswith("waitpid"):
            thread.join(10)
    assert caplog.messages == []


def test_a_port_that_is_in_use_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Emulator(render="stub") as emulator:
        port = int(emulator.url.rpartition(":")[2])
        assert main(["--port", str(port)]) == 2
        assert "in use" in capsys.readouterr().err
        with pytest.raises(OSError, match="in use"):
            Emulator(port=port).start()


def memory(pid: int) -> float:
    """Return the resident memory of a process, in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the process does not exist")


def processor_time(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measured by /proc")
def test_a_poll_takes_less_than_two_milliseconds_of_processor_time() -> None:
    with running("--render", "stub", "--progression", "manual") as (process, ready):
        assert memory(process.pid) < 100
        handle = Emulator.attach(ready["url"])
        body = talking_photo(handle)
        with connect(handle) as http:
            ids = [http.post("/v1/ai-talking-photo", json=body).json()["id"] for _ in range(300)]
            before = processor_time(process.pid)
            for job_id in ids:
                assert http.get(f"/v1/video-projects/{job_id}").json()["status"] == "queued"
            assert processor_time(process.pid) - before < 0.6
        assert memory(process.pid) < 100


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measured by /proc")
def test_polls_are_answered_while_a_render_runs(photo: Path) -> None:
    with Emulator(progression="manual") as emulator, connect(emulator) as http:
        body = talking_photo(emulator, photo, end_seconds=30)
        body["assets"]["audio_file_path"] = "https://magichour.ai/my-library?audioId=long"
        job_id = http.post("/v1/ai-talking-photo", json=body).json()["id"]
        slowest, polls = 0.0, 0
        while not emulator.job(job_id)["rendered"] and polls < 300:
            polls += 1
            response = http.get(f"/v1/video-projects/{job_id}")
            slowest = max(slowest, response.elapsed.total_seconds())
        assert polls > 20
        assert slowest < 2


def test_a_stopped_emulator_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Emulator(voice="tones") as emulator:
        emulator.put_asset(b"x", "png")
        assert list(tmp_path.iterdir())
        url = emulator.url
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_the_files_of_a_killed_emulator_are_deleted_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with running(env={"TMPDIR": str(tmp_path)}) as (process, _):
        (left,) = tmp_path.iterdir()
        long_ago = time.time() - 3600
        os.utime(left / "in-use", (long_ago, long_ago))
        with Emulator(render="stub"):
            assert left.exists(), "the next emulator deleted files that were in use"
        process.kill()
        process.wait()
        assert left.exists()
        with Emulator(render="stub"):
            assert not left.exists()


def test_a_start_takes_less_than_half_a_second_of_processor_time() -> None:
    with Emulator(render="stub"):
        pass
    before = time.process_time()  # it includes the server's thread
    with Emulator(render="stub"):
        pass
    assert time.process_time() - before < 0.5


def test_the_page_needs_nothing_from_other_hosts(stub: Emulator) -> None:
    page = httpx.get(stub.url + "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "Magic Hour emulator" in page.text
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text


def test_a_handle_that_is_not_started_has_no_url() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = Emulator().url


def test_the_server_imports_no_codec_and_nothing_of_the_provider() -> None:
    code = (
        "import sys, magichour_provider.emulator.server, magichour_provider.emulator.__main__;"
        "print([m for m in sys.modules if m.startswith('airflow') or m in ('av', 'numpy', 'PIL')"
        " or m.startswith('magichour_provider.') and '.emulator' not in m])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_pytest_fixture_connects_airflow_for_one_test(tmp_path: Path) -> None:
    (tmp_path / "test_users.py").write_text(
        "import json, os, pytest, subprocess, sys\n"
        "@pytest.mark.magichour_emulator(render='stub', credits=7)\n"
        "def test_it(magichour_emulator):\n"
        "    code = 'import os; print(os.environ[\"AIRFLOW_CONN_MAGICHOUR_DEFAULT\"])'\n"
        "    seen = subprocess.check_output([sys.executable, '-c', code])\n"
        "    assert json.loads(seen) == magichour_emulator.connection\n"
        "    assert magichour_emulator.credits == 7\n"
        "def test_afterwards():\n"
        "    assert 'AIRFLOW_CONN_MAGICHOUR_DEFAULT' not in os.environ\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW_CONN_MAGIC")}
    plugin = ["-p", "no:magichour", "-p", "magichour_provider.emulator.pytest_plugin"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", *plugin, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


def test_nothing_blocks_the_event_loop(photo: Path, voice: Path, tmp_path: Path) -> None:
    blockbuster = pytest.importorskip("blockbuster")
    magic_hour = pytest.importorskip("magic_hour")
    with blockbuster.blockbuster_ctx(), Emulator() as emulator:
        client = magic_hour.Client(token=emulator.api_key, base_url=emulator.url)
        done = client.v1.ai_talking_photo.generate(
            assets={"image_file_path": str(photo), "audio_file_path": str(voice)},
            start_seconds=0,
            end_seconds=0.5,
            download_directory=str(tmp_path),
        )
        assert done.status == "complete", done.error
        client.v1.video_projects.delete(id=done.id)
        spoken = client.v1.ai_voice_generator.generate(
            style={"prompt": "Hello", "voice_name": "Elon Musk"}, download_directory=str(tmp_path)
        )
        assert spoken.status == "complete", spoken.error
        assert httpx.get(emulator.url + "/").status_code == 200
