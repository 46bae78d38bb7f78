"""Writes ``docs/reference.md`` from the docstrings; with ``--check``, only says whether it is out of date."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference.md"

BEGINNING = """\
# Reference

Every name that is meant to be imported; `make reference` writes this page from the docstrings. An argument
without a default is needed. Whether something was charged is said beside each error, or in
[their table](#errors). Elsewhere: [the fields of the connection](connection.md), and
[metrics, the asset's event and OpenLineage](operator.md#what-others-hear-of-it).
"""
SECTIONS = {
    "Operators": (
        "operators.TalkingPhotoOperator",
        "operators.VoiceGeneratorOperator",
        "paying.PaidJobOperator",
    ),
    "Sensors": ("sensors.TalkingPhotoSensor", "sensors.VoiceGeneratorSensor", "sensors.JobSensor"),
    "Hook": ("hooks.MagicHourHook",),
    "What it returns": ("wire.Submission", "wire.Job", "wire.Download", "wire.JobError", "wire.Account"),
    "Clients, without Airflow": ("client.MagicHourClient", "client.AsyncMagicHourClient"),
    "Trigger and link": ("triggers.JobTrigger", "links.MagicHourJobLink"),
    "Emulator, for tests": ("emulator.Emulator",),
}
# Of these, people call the methods; those of an operator are called by Airflow.
CALLED = ("MagicHourHook", "MagicHourClient", "Job", "Emulator")
NOT_CALLED = ("target", "get_ui_field_behaviour", "get_connection_form_widgets")


def page(package: Any) -> str:
    parts = [BEGINNING]
    for title, paths in SECTIONS.items():
        parts += [f"## {title}\n", *(part for path in paths for part in described(path, package[path]))]
    parts += errors(package["exceptions"])
    known = {path.rpartition(".")[2] for paths in SECTIONS.values() for path in paths}
    known |= set(package["exceptions"].classes)

    def link(name: re.Match[str]) -> str:
        return f"[{name[0]}](#{name[1].lower()})" if name[1] in known else name[0]

    lines = "\n".join(parts).rstrip().splitlines()
    linked = (line if line[:1] in "#`" else re.sub(r"(?<!>)`(\w+)`", link, line) for line in lines)
    return "\n".join(linked) + "\n"


def described(path: str, cls: Any) -> Iterator[str]:
    """A class: what it is, how to make one, and, if people call them, its methods."""
    yield f"### `{cls.name}`\n\n`from magichour_provider.{path.rpartition('.')[0]} import {cls.name}`\n"
    yield from documented(cls.docstring, cls.members.get("__init__"))
    if cls.name not in CALLED:
        return
    for name, member in cls.members.items():
        if name.startswith("_") or name in NOT_CALLED or not member.docstring or member.is_class:
            continue
        call = re.sub(r" -> .*|: [^,)=]+(?= =|,|\))", "", member.signature()) if member.is_function else name
        yield f"#### `{cls.name}.{call.replace(' = ', '=')}`\n"
        yield from documented(member.docstring, member if member.is_function else None)


def documented(docstring: Any, function: Any) -> Iterator[str]:
    text, _, source = inspect.cleandoc(docstring.value).partition("\n\nSource: ")
    signature = {parameter.name: parameter for parameter in function.parameters} if function else {}
    for section in griffe.Docstring(text, parent=docstring.parent).parse("sphinx"):
        match section.kind.value:
            case "text":
                yield f"{tidy(section.value)}\n"
            case "parameters":
                yield "| argument | type | default | meaning |\n|---|---|---|---|"
                for told in section.value:
                    yield row(told, signature.get(told.name))
                yield ""
            case "attributes":
                yield "| field | meaning |\n|---|---|"
                yield from (f"| `{told.name}` | {one_line(told.description)} |" for told in section.value)
                yield ""
            case "returns":
                yield f"Returns {one_line(section.value[0].description).rstrip('.')}.\n"
            case "raises":
                yield "Raises:\n"
                yield from (f"- `{told.annotation}`: {one_line(told.description)}" for told in section.value)
                yield ""
    if source:
        yield f"Source: {one_line(source)}\n"


def row(told: Any, parameter: Any) -> str:
    kind = default = ""
    if parameter and not parameter.kind.value.startswith("variadic"):
        kind = code(str(parameter.annotation).replace(" | ", " or "))
        default = "" if parameter.default is None else code(str(parameter.default).replace("'", '"'))
        if "(" in default:  # a setting's, which the meaning names
            default = "Airflow's"
    return f"| `{told.name}` | {kind} | {default} | {one_line(told.description)} |"


def errors(module: Any) -> Iterator[str]:
    """The tree, and what each class says of itself; an instance may know better."""
    _, tree, words = inspect.cleandoc(module.docstring.value).split("\n\n")
    yield f"## Errors\n\n`from {module.path} import MagicHourError`\n"
    yield f"```text\n{tree}\n```\n\n{tidy(words)}\n"
    yield "| error | charged | retryable | meaning |\n|---|---|---|---|"
    for cls in module.classes.values():
        charged = cls.all_members["charged"].value.strip("'")
        retryable = "yes" if cls.all_members["retryable"].value == "True" else "no"
        named = f'<a id="{cls.name.lower()}"></a>`{cls.name}`'
        yield f"| {named} | {charged} | {retryable} | {one_line(cls.docstring.value)} |"


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def one_line(text: str) -> str:
    return " ".join(tidy(text).split()).replace("|", "\\|")


def tidy(text: str) -> str:
    """From reStructuredText to Markdown, as far as the docstrings use it."""
    return re.sub(r":\w+:`~?([\w.]+\.)?(\w+)`", r"`\2`", text).replace("``", "`")


def main() -> int:
    logging.getLogger("griffe").setLevel(logging.ERROR)  # our ":returns:" of a class needs no type
    text = page(griffe.load("magichour_provider", search_paths=[ROOT], submodules=True))
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, "utf-8")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != text:
        print(f"{PAGE.relative_to(ROOT)} is not what the docstrings say: make reference")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
