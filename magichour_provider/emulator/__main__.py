"""
``python -m magichour_provider.emulator``: start an emulator, or control a running one.

    python -m magichour_provider.emulator --port 0 --json
    python -m magichour_provider.emulator fault create status=502 html=true effect=true
    python -m magichour_provider.emulator voices einstein
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

from .settings import CHOICES, Settings
from .threaded_server import Emulator
from .validation import voices

DEFAULT_URL = "http://127.0.0.1:8787"
# This is slow enough for a person to see a job change its status.
DEFAULT_PROGRESSION = "seconds:6"
PROGRAM = "python -m magichour_provider.emulator"

# The verbs without arguments, with their help.
LISTS = {
    "faults": "print the faults",
    "jobs": "print the jobs",
    "ledger": "print every change of the credits",
    "state": "print credits, clock, settings and calls",
    "requests": "print the last 10 000 requests",
    "deliveries": "print the webhook events",
    "clear-faults": "remove all faults",
}
# The verbs with arguments, and their help.
CHANGES = {
    "advance": (["seconds"], "set the clock forward"),
    "move": (["job_id", "to"], "move a job to rendering or complete"),
    "fail": (["job_id", "code"], "end a job with an error, and refund it"),
    "cancel": (["job_id"], "cancel a job, and refund it"),
    "delete": (["job_id"], "delete a job's file"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Return its exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    for option in options.start_options if options.run is not run else ():
        if getattr(options, option.dest) != parser.get_default(option.dest):
            parser.error(f"{option.option_strings[0]} starts an emulator: do not use it with a verb")
    try:
        return int(options.run(options))
    except ConnectionError as error:
        print(f"error: no emulator at {options.url}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [options]           start an emulator\n"
        f"       {PROGRAM} [--url URL] verb …  control a running emulator",
        description="An emulator of the Magic Hour API. It needs no account, no credits and no network.",
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="the emulator that a verb controls (%(default)s)")
    group = parser.add_argument_group("options to start an emulator")
    start_options: list[argparse.Action] = []
    parser.set_defaults(run=run, start_options=start_options)

    def add(name: str, **options: Any) -> None:
        """Add an option. If it is a setting, use the default value and the type of the setting."""
        default = getattr(Settings, name[2:].replace("-", "_"), None)
        from_setting = {} if default is None else {"default": default, "type": type(default)}
        start_options.append(group.add_argument(name, **from_setting | options))

    add("--host", help="the address to listen on (%(default)s)")
    add("--port", default=8787, help="the port; 0: any free port (%(default)s)")
    add(
        "--progression",
        default=DEFAULT_PROGRESSION,
        help="when jobs change their status: instant, polls:N, seconds:N, manual, realistic, realistic:N"
        " (%(default)s)",
    )
    add(
        "--realistic",
        action="store_const",
        dest="progression",
        const="realistic",
        help="the same as --progression realistic: render times like the vendor's",
    )
    add("--credits", help="the credits at the start (%(default)s)")
    add("--api-key", help="the only key that the emulator accepts (%(default)s)")
    add("--fps", help="the frame rate of the videos (%(default)s)")
    add("--workers", help="how many renders run at a time (%(default)s)")
    add("--max-jobs", help="above this number, the oldest ended jobs are removed (%(default)s)")
    add("--max-disk-mb", help="the limit for uploads, and the same limit for results (%(default)s)")
    for name, choices in CHOICES.items():
        add(f"--{name}", choices=choices, help="%(default)s")
    add("--webhook", metavar="URL", action="append", default=[], help="send events to this URL")
    add("--webhook-secret", default="whsec_emulator", help="the secret that signs the events (%(default)s)")
    add("--json", action="store_true", help="print one line of JSON instead of text")
    add("--ready-file", type=Path, help="write the line of JSON to this file when the emulator listens")

    verbs = parser.add_subparsers(title="verbs, to control a running emulator", metavar="")
    fault = verbs.add_parser("fault", help="make a call fail: CALL [name=value …], like Emulator.fault()")
    fault.add_argument("call")
    fault.add_argument("options", nargs="*", metavar="name=value", help="an option of Emulator.fault()")
    fault.set_defaults(run=add_fault)
    for verb, description in LISTS.items():
        verbs.add_parser(verb, help=description).set_defaults(run=print_lines, verb=verb)
    settings = verbs.add_parser("set", help="change credits=N or progression=MODE, for active jobs too")
    settings.add_argument("options", nargs="+", metavar="name=value", help="credits or progression")
    settings.set_defaults(run=change_settings)
    for verb, (names, description) in CHANGES.items():
        command = verbs.add_parser(verb, help=f"{' '.join(names).upper()}: {description}")
        for name in names:
            command.add_argument(name)
        command.set_defaults(run=change, verb=verb, names=names)
    voice_list = verbs.add_parser("voices", help="[WORD]: print the names of all voices, or those with WORD")
    voice_list.add_argument("word", nargs="?", default="")
    voice_list.set_defaults(run=print_voices)
    for command in verbs.choices.values():
        # A default here would overwrite a --url before the verb.
        command.add_argument("--url", default=argparse.SUPPRESS, help=f"the emulator ({DEFAULT_URL})")
    return parser


def run(options: argparse.Namespace) -> int:
    """Run an emulator until SIGTERM or Ctrl-C."""
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in vars(options).items() if name in names})
    asyncio.run(serve_until_signal(settings, options))
    return 0


async def serve_until_signal(settings: Settings, options: argparse.Namespace) -> None:
    from .server import serve  # it loads aiohttp

    signaled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signaled.set)
    async with serve(settings) as emulation:
        for url in options.webhook:
            emulation.webhooks.add(url, options.webhook_secret)
        connection = {
            "conn_type": "magichour",
            "host": emulation.base_url,
            "password": settings.api_key,
            "extra": {"poll_interval": 0.5},
        }
        ready = {
            "url": emulation.base_url,
            "api_key": settings.api_key,
            "admin": f"{emulation.base_url}/",
            "pid": os.getpid(),
            "connection": connection,
        }
        if options.ready_file:
            write_atomically(options.ready_file, json.dumps(ready) + "\n")
        print_line(json.dumps(ready) if options.json else ready_text(settings, ready))
        await signaled.wait()


def ready_text(settings: Settings, ready: dict[str, Any]) -> str:
    lines = [
        f"Magic Hour emulator at {ready['url']}",
        f"  key          {settings.api_key}",
        f"  admin page   {ready['admin']}",
        f"  progression  {settings.progression}",
        f"  voices       {settings.engine}",
        "  for Airflow:",
        f"export AIRFLOW_CONN_MAGICHOUR_DEFAULT='{json.dumps(ready['connection'])}'",
    ]
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        lines.append("  warning: other machines can reach this emulator, and its admin routes need no key")
    return "\n".join(lines)


def write_atomically(path: Path, text: str) -> None:
    """Write a file. Another process never sees a partial file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def add_fault(options: argparse.Namespace) -> int:
    rule: Any = dict(map(name_and_value, options.options))
    print_line(Emulator.attach(options.url).fault(options.call, **rule).id)
    return 0


def change_settings(options: argparse.Namespace) -> int:
    values = dict(map(name_and_value, options.options))
    Emulator.attach(options.url)._call_admin("PATCH", "state", values)
    return 0


def name_and_value(text: str) -> tuple[str, Any]:
    """Split ``name=value``. Parse the value as JSON if it is JSON, and if the option is not always text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not name=value")
    if name in ("name", "ends", "reset"):
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def print_lines(options: argparse.Namespace) -> int:
    result = getattr(Emulator.attach(options.url), options.verb.replace("-", "_"))()
    for line in result if isinstance(result, list) else [result]:
        if line is not None:
            print_line(json.dumps(line))
    return 0


def print_voices(options: argparse.Namespace) -> int:
    """Print the names that are part of this package. This needs no running emulator."""
    found = sorted(name for name in voices() if options.word.casefold() in name.casefold())
    for name in found:
        print_line(name)
    return 0 if found else 1


def change(options: argparse.Namespace) -> int:
    values = [getattr(options, name) for name in options.names]
    if options.verb == "advance":
        values = [float(values[0])]
    getattr(Emulator.attach(options.url), options.verb)(*values)
    return 0


def print_line(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is a command


if __name__ == "__main__":
    sys.exit(main())
