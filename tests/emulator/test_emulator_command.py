"""The command line that controls a running emulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from emulator_http import connect

from magichour_provider.emulator import settings
from magichour_provider.emulator.__main__ import CHANGES, LISTS, main

if TYPE_CHECKING:
    from magichour_provider.emulator import Emulator

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process. Return its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(list(arguments))
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("before", [True, False], ids=["--url before the verb", "--url after the verb"])
def test_a_fault_is_added_printed_and_removed(stub: Emulator, command: Command, before: bool) -> None:
    def run(verb: str, *arguments: str) -> str:
        url = ("--url", stub.url)
        code, out, err = command(*url, verb, *arguments) if before else command(verb, *arguments, *url)
        assert (code, err) == (0, "")
        return out

    run("fault", "account", "status=429", 'headers={"Retry-After": "3"}')
    with connect(stub) as http:
        response = http.get("/v1/account")
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert json.loads(run("faults"))["hits"] == 1
    assert run("clear-faults") == ""
    assert stub.faults() == []


def test_credits_and_progression_are_set(stub: Emulator, command: Command) -> None:
    assert command("set", "credits=7", "progression=polls:3", "--url", stub.url)[0] == 0
    assert (stub.credits, stub.progression) == (7, "polls:3")


def test_the_help_lists_every_verb_and_the_url(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for word in ("--url", "fault ", "set ", "voices ", *LISTS, *CHANGES):
        assert word in out, word
    assert "--url" in command("move", "--help")[1]


def test_the_names_of_voices_are_printed_without_an_emulator(command: Command) -> None:
    assert command("voices", "einstein") == (0, "Albert Einstein\n", "")
    assert len(command("voices")[1].splitlines()) == 1266
    assert command("voices", "qqqq") == (1, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--progression", "soon"], "choose instant"),
        (["--fps", "0"], "choose 1 to 120"),
        (["--port", "99999"], "choose 0 to 65535"),
        (["--workers", "0"], "choose 1 or more"),
        (["--port", "0", "--webhook", "nonsense"], "http"),
        (["--url", "http://127.0.0.1:9", "state"], "no emulator at http://127.0.0.1:9"),
        (["--port", "9", "state"], "--port starts an emulator"),
        (["--realistic", "jobs"], "starts an emulator"),
        (["nothing"], "invalid choice"),
    ],
)
def test_the_message_of_a_mistake_is_one_line(command: Command, arguments: list[str], message: str) -> None:
    code, _, err = command(*arguments)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["fault", "nothing"], "choose create"), (["fault", "create", "status"], "not name=value")],
)
def test_the_message_of_a_mistake_in_a_fault_is_one_line(
    stub: Emulator, command: Command, arguments: list[str], message: str
) -> None:
    code, _, err = command("--url", stub.url, *arguments)
    assert code == 2
    assert message in err.splitlines()[-1]


def test_a_start_without_a_codec_names_the_extra_to_install(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_av(name: str, *_: Any) -> Any:
        return None if name == "av" else find_spec(name)

    monkeypatch.setattr(settings, "find_spec", without_av)
    code, _, err = command("--port", "0")
    assert code == 2
    assert err.startswith("error: av not installed: pip install 'airflow-provider-magichour[emulator]'")
    settings.Settings(render="stub")  # it needs no codec
