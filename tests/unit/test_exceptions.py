"""The tree of errors, and what each of them says about money."""

from __future__ import annotations

import inspect
import pickle
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
def test_every_error_says_its_five_things(kind: type[MagicHourError]) -> None:
    plain = kind("what to do")
    assert (plain.status_code, plain.job_id, plain.credits, str(plain)) == (None, None, None, "what to do")
    assert isinstance(plain.retryable, bool)
    assert plain.charged in ("yes", "no", "refunded", "unknown")
    told = kind("x", status_code=418, job_id="job", retryable=True, charged="unknown", credits=3)
    assert (told.status_code, told.job_id, told.retryable, told.charged, told.credits) == (
        418,
        "job",
        True,
        "unknown",
        3,
    )


def test_an_error_with_other_words_keeps_what_it_knows_and_survives_a_pickle() -> None:
    error = exceptions.Unavailable("why", sent=False, retry_after=7.0, job_id="cm1", by_vendor=True)
    for other in (error.copied("why, and a hint"), pickle.loads(pickle.dumps(error))):
        assert (type(other), vars(other)) == (type(error), vars(error))
    assert str(error.copied("why, and a hint")) == "why, and a hint"
    assert error.copied(charged="yes").charged == "yes"


def test_a_value_in_a_message_is_cut() -> None:
    said = str(exceptions.InvalidInput.of("image_file_path", "data:" + "A" * 300_000, "is not taken"))
    assert len(said) < 300
    assert said.endswith("is not taken")


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
