"""What a package index shows: README.md, whose links must lead somewhere without the repository.

Links to pages of the repository become links to ``address``, a setting under
``tool.hatch.metadata.hooks.custom`` in pyproject.toml: where on the web the repository's files are.
As long as there is none, they become the names of the pages, and pictures are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!https?://)(?P<target>[^)\s]+)\)")
PICTURE = re.compile(r'<img src="(?!https?://)(?P<target>[^"]+)"(?P<rest>[^>]*)>')


class Readme(MetadataHookInterface):
    """Gives the package its description."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = without_repository(text, self.config.get("address"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def without_repository(text: str, address: str | None) -> str:
    """Markdown whose links do not need the files that they are relative to.

    Args:
        text: Markdown.
        address: where these files are on the web; None if they are not.
    """

    def link(found: re.Match[str]) -> str:
        words, target = found["text"], found["target"]
        if address:
            return f"[{words}]({address.rstrip('/')}/{target})"
        return words if words == target else f"{words} ({target})"

    def picture(found: re.Match[str]) -> str:
        if address:
            return f'<img src="{address.rstrip("/")}/{found["target"]}"{found["rest"]}>'
        return ""

    return re.sub(r"\n{3,}", "\n\n", PICTURE.sub(picture, LINK.sub(link, text)))
