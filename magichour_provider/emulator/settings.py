"""The settings of an emulator. The command line imports this module, so it imports no slow modules."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec

from .models import Progression
from .validation import TIERS

CHOICES = {
    "render": ("real", "stub"),
    "tier": TIERS,
    "voice": ("auto", "espeak-ng", "tones"),
    "fetch": ("loopback", "any"),
}
# The modules that a render needs.
CODECS = ("av", "numpy", "PIL", "pillow_heif")
INSTALL_COMMAND = "pip install 'airflow-provider-magichour[emulator]'"


@dataclass
class Settings:
    """
    The settings of an emulator.

    :raises ValueError: a setting is not valid.
    :raises ModuleNotFoundError: ``render`` is ``real``, and a codec is not installed.
    """

    host: str = "127.0.0.1"
    port: int = 0
    api_key: str = "mhk_test_emulator"
    credits: int = 100_000
    progression: str = "instant"
    render: str = "real"
    fps: float = 30.0
    tier: str = "business"
    voice: str = "auto"
    fetch: str = "loopback"
    workers: int = 1
    max_jobs: int = 2000
    max_disk_mb: int = 2048
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose {', '.join(choices)}")
        # which() reads the disk, so it must not run on the event loop.
        installed = shutil.which("espeak-ng") is not None
        self.engine = "espeak-ng" if installed and self.voice != "tones" else "tones"
        if self.voice == "espeak-ng" and self.engine != "espeak-ng":
            raise ValueError("voice is 'espeak-ng', but espeak-ng is not installed: choose auto or tones")
        if not self.api_key:
            raise ValueError("api_key is empty: set a key, or omit api_key")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}: choose 0 to 65535")
        for name in ("workers", "max_jobs", "max_disk_mb"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose 1 or more")
        if not 1 <= self.fps <= 120:
            raise ValueError(f"fps is {self.fps!r}: choose 1 to 120")
        Progression.parse(self.progression)
        missing = [name for name in CODECS if find_spec(name) is None] if self.render == "real" else []
        if missing:
            raise ModuleNotFoundError(
                f"{', '.join(missing)} not installed: {INSTALL_COMMAND}, or choose render='stub'",
                name=missing[0],
            )
