"""The tree of errors, and what each of them says about money."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from magichour_provider import exceptions
from magichour_provider.exceptions import MagicHourError

KINDS = {
    name: kind
    for name, kind in vars(exceptions).items()
    if inspect.isclass(kind) and issubclass(kind, MagicHourError)
}


def drawn() -> dict[str, str]:
    """Each error's parent, by the tree in the module's docstring."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        branch = line.replace("│", " ")
        name = branch.lstrip(" ├└─").split(" ")[0]
        if name not in KINDS:
            continue
        depth = (len(branch) - len(branch.lstrip(" ├└─"))) // 4
        path[depth:] = [name]
        if depth:
            parents[name] = path[depth - 1]
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn() == {
        name: kind.__bases__[0].__name__ for name, kind in KINDS.items() if kind is not MagicHourError
    }


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_error_says_its_four_things(kind: type[MagicHourError]) -> None:
    plain = kind("what to do")
    assert (plain.status_code, plain.job_id, str(plain)) == (None, None, "what to do")
    assert isinstance(plain.retryable, bool)
    assert plain.charged in ("yes", "no", "unknown")
    told = kind("x", status_code=418, job_id="job", retryable=True, charged="unknown")
    assert (told.status_code, told.job_id, told.retryable, told.charged) == (418, "job", True, "unknown")


def test_bad_input_is_a_value_error_too() -> None:
    assert issubclass(exceptions.InvalidInput, ValueError)


ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)


def test_the_troubleshooting_page_has_each_error_and_what_it_says_about_money() -> None:
    page = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
    if not page.exists():
        pytest.skip("docs/ is not here")
    told = {
        name: (re.split("[,;]", charged)[0], re.split("[,;]", retried)[0])
        for name, charged, retried in ROW.findall(page.read_text("utf-8"))
    }
    assert told == {
        name: (kind.charged.replace("unknown", "not known"), "yes" if kind.retryable else "no")
        for name, kind in KINDS.items()
    }
