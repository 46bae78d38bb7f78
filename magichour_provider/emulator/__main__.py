"""
``python -m magichour_provider.emulator``: run the emulator, or tell a running one to misbehave.

    python -m magichour_provider.emulator --port 0 --json
    python -m magichour_provider.emulator fault create status=502 html=true effect=true
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from .handle import Emulator, server
from .settings import CHOICES, Settings

DEFAULT_URL = "http://127.0.0.1:8787"
# A person who watches wants to see a job on its way.
WATCHABLE = "seconds:6"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    given = parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m magichour_provider.emulator",
        description="The Magic Hour API on this machine: no key, no credits, no network.",
    )
    top.set_defaults(run=run)
    add = top.add_argument
    add("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    add("--port", type=int, default=8787, help="0 picks a free one (%(default)s)")
    add(
        "--moves",
        default=WATCHABLE,
        help="how jobs walk: instant, looks:N, seconds:N, manual, realistic, realistic:N (%(default)s)",
    )
    add(
        "--realistic",
        action="store_const",
        dest="moves",
        const="realistic",
        help="render times like the real ones: the same as --moves realistic",
    )
    add("--credits", type=int, default=100_000, help="credits to start with (%(default)s)")
    add("--api-key", default="mhk_test_emulator", help="the one key accepted (%(default)s)")
    add("--fps", type=float, default=30.0, help="frame rate of the videos (%(default)s)")
    add("--workers", type=int, default=1, help="renders at a time (%(default)s)")
    add("--max-jobs", type=int, default=2000, help="ended jobs beyond are dropped (%(default)s)")
    add("--max-disk-mb", type=int, default=2048, help="for uploads, and for results (%(default)s)")
    for name, choices in CHOICES.items():
        add(f"--{name}", choices=choices, default=getattr(Settings, name), help="%(default)s")
    add("--webhook", metavar="URL", action="append", default=[], help="send events there")
    add("--webhook-secret", default="whsec_emulator", help="signs them (%(default)s)")
    add("--json", action="store_true", help="print one line of JSON instead of text for people")
    add("--ready-file", type=Path, help="write that line here once it listens")

    commands = top.add_subparsers(title="to a running emulator", metavar="")
    fault = commands.add_parser("fault", help="have a call go wrong")
    fault.add_argument("call")
    fault.add_argument("rule", nargs="*", metavar="name=value", help="as of Emulator.fault()")
    fault.set_defaults(run=add_fault)
    for name, what in (
        ("faults", "list the faults in force"),
        ("clear-faults", "behave again"),
        ("state", "credits, clock and settings"),
        ("jobs", "list the jobs"),
        ("ledger", "list the movements of credits"),
    ):
        commands.add_parser(name, help=what).set_defaults(run=show, what=name)
    for name, values in (
        ("advance", ["seconds"]),
        ("move", ["job_id", "to"]),
        ("cancel", ["job_id"]),
        ("fail", ["job_id", "code"]),
        ("delete", ["job_id"]),
    ):
        command = commands.add_parser(name, help=" ".join(values))
        for value in values:
            command.add_argument(value)
        command.set_defaults(run=steer, what=name, values=values)
    for command in commands.choices.values():
        command.add_argument("--url", default=DEFAULT_URL, help="the emulator (%(default)s)")
    return top


def run(given: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in vars(given).items() if name in names})
    asyncio.run(serve_until_told(settings, given))
    return 0


async def serve_until_told(settings: Settings, given: argparse.Namespace) -> None:
    serve = server()
    told = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, told.set)
    async with serve(settings) as world:
        for url in given.webhook:
            world.webhooks.add(url, given.webhook_secret)
        connection = {
            "conn_type": "magichour",
            "host": world.base,
            "password": settings.api_key,
            "extra": {"poll_interval": 0.5},
        }
        ready = {
            "url": world.base,
            "api_key": settings.api_key,
            "admin": f"{world.base}/",
            "pid": os.getpid(),
            "connection": connection,
        }
        if given.ready_file:
            write_whole(given.ready_file, json.dumps(ready) + "\n")
        tell(json.dumps(ready) if given.json else for_people(settings, ready))
        await told.wait()


def for_people(settings: Settings, ready: dict[str, Any]) -> str:
    lines = [
        f"Magic Hour emulator at {ready['url']}",
        f"  key         {settings.api_key}",
        f"  admin page  {ready['admin']}",
        f"  jobs walk   {settings.moves}",
        f"  voices      {settings.engine}",
        "  for Airflow:",
        f"export AIRFLOW_CONN_MAGICHOUR_DEFAULT='{json.dumps(ready['connection'])}'",
    ]
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        lines.append("  beware: others can reach it, and its admin routes ask for no key")
    return "\n".join(lines)


def write_whole(path: Path, text: str) -> None:
    """A reader that finds the file finds all of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def add_fault(given: argparse.Namespace) -> int:
    rule = {}
    for pair in given.rule:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} is not name=value")
        rule[name] = value if name in ("name", "ends", "reset") else as_json(value)
    added = Emulator.attach(given.url).fault(given.call, **rule)
    tell(added.id)
    return 0


def as_json(value: str) -> Any:
    """``502``, ``true``, ``{"a": 1}`` as what they say; anything else as text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def show(given: argparse.Namespace) -> int:
    handle = Emulator.attach(given.url)
    shown: dict[str, Any] = {
        "faults": handle.faults,
        "clear-faults": handle.clear_faults,
        "state": handle.state,
        "jobs": handle.jobs,
        "ledger": handle.ledger,
    }
    answer = shown[given.what]()
    for line in answer if isinstance(answer, list) else [answer]:
        if line is not None:
            tell(json.dumps(line))
    return 0


def steer(given: argparse.Namespace) -> int:
    values = [getattr(given, name) for name in given.values]
    if given.what == "advance":
        values = [float(values[0])]
    getattr(Emulator.attach(given.url), given.what)(*values)
    return 0


def tell(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is a command


if __name__ == "__main__":
    sys.exit(main())
