"""
What ``mkdocs.yml`` needs beside ``docs/``: pages that are made of other files of this repository.

The README is the first page. Links in the repository lead to files, and here to pages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import griffe
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {name: f"{name.lower()}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY", "LICENSE")}
PAGES["README"] = "index.md"
LINKS = (
    (re.compile(r"\]\((?:\.\./)?example_dags/(\w+)\.py"), r"](examples/\1.md"),
    (re.compile(r"\]\((?:\.\./)?(CHANGELOG|CONTRIBUTING|SECURITY|LICENSE)(?:\.md)?"), None),
    (re.compile(r"\]\(docs/"), "]("),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in PAGES.items():
        (source,) = ROOT.glob(f"{name}*")
        text = source.read_text("utf-8")
        files.append(
            File.generated(config, page, content=f"```text\n{text}```" if name == "LICENSE" else text)
        )
    for source in sorted((ROOT / "example_dags").glob("*.py")):
        text = f"# {source.name}\n\n```python\n{source.read_text('utf-8')}```\n"
        files.append(File.generated(config, f"examples/{source.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    if page.file.src_uri.startswith("examples/"):
        return markdown
    for link, target in LINKS:
        markdown = link.sub(target or (lambda found: f"]({PAGES[found[1]]}"), markdown)
    return markdown


class Docstrings(griffe.Extension):
    """
    Our docstrings, as Markdown with Sphinx's fields.

    The vendor's route, the last line of a docstring, is not a part of its last field.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if not obj.docstring:
            return
        obj.docstring.value = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", obj.docstring.value)
        obj.docstring.value = re.sub(r"\.\. versionadded:: (\S+)", r"*New in \1.*", obj.docstring.value)
        text, found, source = obj.docstring.value.rpartition("\n\nSource: ")
        words, fields, rest = text.partition("\n\n:")
        if found and fields:
            obj.docstring.value = f"{words}\n\nSource: {source}\n\n:{rest}"
