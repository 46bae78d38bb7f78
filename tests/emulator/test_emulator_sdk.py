"""The vendor's SDKs: they work with the emulator, from the upload to a playable file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from magichour_provider.emulator import Emulator

av = pytest.importorskip("av")
magic_hour = pytest.importorskip("magic_hour", reason="the vendor's SDK is not installed")


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGIC_HOUR_POLL_INTERVAL", "0.01")


def playable(path: str) -> float:
    with av.open(path) as file:
        assert sum(1 for _ in file.decode(video=0))
        return float(file.duration / av.time_base)


def test_the_python_sdk_generates_a_playable_video(photo: Path, voice: Path, tmp_path: Path) -> None:
    with Emulator(progression="polls:3") as emulator:
        client = magic_hour.Client(token=emulator.api_key, base_url=emulator.url)
        done = client.v1.ai_talking_photo.generate(
            assets={"image_file_path": str(photo), "audio_file_path": str(voice)},
            start_seconds=0,
            end_seconds=1.5,
            name="from the SDK",
            style={"generation_mode": "expressive", "intensity": 1.5, "prompt": "smile"},
            resolution="480p",
            download_directory=str(tmp_path),
        )
        assert done.status == "complete"
        assert done.credits_charged == done.total_frame_cost == 30
        assert playable(done.downloaded_paths[0]) == pytest.approx(1.5, abs=0.05)
        assert emulator.charges("from the SDK") == 1
        assert all("authorization" not in request["headers"] for request in emulator.requests("put"))

        assert client.v1.account.list().credits == emulator.credits
        client.v1.video_projects.delete(id=done.id)
        assert client.v1.video_projects.get(id=done.id).enabled is False


async def test_the_async_python_sdk_generates_a_playable_video(
    photo: Path, voice: Path, tmp_path: Path
) -> None:
    with Emulator(fps=6) as emulator:
        client = magic_hour.AsyncClient(token=emulator.api_key, base_url=emulator.url)
        done = await client.v1.ai_talking_photo.generate(
            assets={"image_file_path": str(photo), "audio_file_path": str(voice)},
            start_seconds=0.5,
            end_seconds=1.5,
            download_directory=str(tmp_path),
        )
        assert playable(done.downloaded_paths[0]) == pytest.approx(1, abs=0.05)
        assert (await client.v1.account.list()).tier == "business"


def test_the_python_sdk_generates_a_voice(tmp_path: Path) -> None:
    with Emulator(fps=6) as emulator:
        client = magic_hour.Client(token=emulator.api_key, base_url=emulator.url)
        done = client.v1.ai_voice_generator.generate(
            style={"prompt": "Hello, how are you?", "voice_name": "A$AP Rocky"},
            download_directory=str(tmp_path),
        )
        assert done.status == "complete"
        assert done.credits_charged == 2
        with av.open(done.downloaded_paths[0]) as file:
            assert file.streams.audio[0].codec_context.name == "pcm_s16le"
        client.v1.audio_projects.delete(id=done.id)


def test_the_python_sdk_reports_a_wrong_key() -> None:
    with Emulator(render="stub") as emulator:
        client = magic_hour.Client(token="wrong", base_url=emulator.url)
        with pytest.raises(Exception, match="401"):
            client.v1.account.list()


NODE = """
const { default: Client } = require(process.argv[2] + "/node_modules/magic-hour");
(async () => {
  const client = new Client({ baseUrl: process.argv[3], token: process.argv[4] });
  const done = await client.v1.aiTalkingPhoto.generate(
    {
      assets: { imageFilePath: process.argv[5], audioFilePath: process.argv[6] },
      startSeconds: 0, endSeconds: 1, name: "from Node",
    },
    { waitForCompletion: true, downloadOutputs: true, downloadDirectory: process.argv[7] },
  );
  console.log(JSON.stringify({ status: done.status, paths: done.downloadedPaths }));
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.slow
def test_the_node_sdk_generates_a_playable_video(photo: Path, voice: Path, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        pytest.skip("Node is not installed")
    install = [
        npm,
        "install",
        "--silent",
        "--no-audit",
        "--prefer-offline",
        "--prefix",
        str(tmp_path),
        "magic-hour",
    ]
    if subprocess.run(install, capture_output=True, check=False, timeout=120).returncode:
        pytest.skip("the vendor's npm package cannot be installed here")
    with Emulator(fps=6) as emulator:
        (tmp_path / "run.js").write_text(NODE)
        arguments = [tmp_path, emulator.url, emulator.api_key, photo, voice, tmp_path]
        ran = subprocess.run(
            [node, str(tmp_path / "run.js"), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        assert playable(str(next(tmp_path.glob("*.mp4")))) == pytest.approx(1, abs=0.05)
        assert emulator.charges("from Node") == 1


def test_the_python_sdk_makes_images_music_and_subtitles(photo: Path, voice: Path, tmp_path: Path) -> None:
    for name in ("images", "music", "video", "subtitled"):
        (tmp_path / name).mkdir()
    with Emulator(voice="tones", fps=6) as emulator:
        client = magic_hour.Client(token=emulator.api_key, base_url=emulator.url)
        images = client.v1.ai_image_generator.generate(
            image_count=2, style={"prompt": "a lighthouse"}, download_directory=str(tmp_path / "images")
        )
        assert len({Path(path).read_bytes() for path in images.downloaded_paths}) == 2
        music = client.v1.ai_music_generator.generate(
            duration=15, style={"prompt": "a fugue"}, download_directory=str(tmp_path / "music")
        )
        with av.open(music.downloaded_paths[0]) as file:
            assert file.duration / av.time_base == pytest.approx(15, abs=0.1)
        moving = client.v1.audio_to_video.generate(
            assets={"audio_file_path": str(voice), "image_file_path": str(photo)},
            end_seconds=1.5,
            download_directory=str(tmp_path / "video"),
        )
        subtitled = client.v1.auto_subtitle_generator.generate(
            assets={"video_file_path": moving.downloaded_paths[0]},
            start_seconds=0.5,
            end_seconds=1.5,
            style={"template": "karaoke"},
            download_directory=str(tmp_path / "subtitled"),
        )
        assert playable(subtitled.downloaded_paths[0]) == pytest.approx(1, abs=0.1)
        assert emulator.charges() == 4
