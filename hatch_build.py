"""
What a package index shows: the README with absolute links, and the project's addresses.

The environment variable ``REPOSITORY`` is the public address of the repository, as in
``make release-check REPOSITORY=https://github.com/someone/airflow-provider-magichour``. Without it the links
stay relative, and the package has no addresses.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(?P<bang>!?)\[(?P<words>[^\]]*)\]\((?!\w+:|#)(?P<path>[^)]+)\)")


class Addresses(MetadataHookInterface):
    """Sets ``readme`` and ``urls``, which are dynamic in ``pyproject.toml``."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text("utf-8")
        urls = {}
        if repository := os.environ.get("REPOSITORY", "").rstrip("/"):
            if not repository.startswith("https://"):
                raise ValueError(
                    f"REPOSITORY={repository!r} is not an address; give one that begins with https://"
                )
            tag = f"v{metadata['version']}"

            def absolute(link: re.Match[str]) -> str:
                view = "raw" if link["bang"] else "blob"
                return f"{link['bang']}[{link['words']}]({repository}/{view}/{tag}/{link['path']})"

            text = LINK.sub(absolute, text)
            urls = {
                "Documentation": f"{repository}/blob/{tag}/README.md",
                "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
                "Source": repository,
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls
