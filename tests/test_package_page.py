"""What a package index shows of the README."""

from __future__ import annotations

import re

import pytest

from hatch_build import Readme, without_repository
from tests.conftest import ROOT

TEXT = """# Name

<img src="docs/a.png" width="520" alt="A picture">

See [the page](docs/a.md#part), [LICENSE](LICENSE) and [elsewhere](https://example.org/x).
"""


def test_without_an_address_links_become_names() -> None:
    assert without_repository(TEXT, None) == (
        "# Name\n\nSee the page (docs/a.md#part), LICENSE and [elsewhere](https://example.org/x).\n"
    )


@pytest.mark.parametrize("address", ["https://example.org/files", "https://example.org/files/"])
def test_with_an_address_links_are_absolute(address: str) -> None:
    text = without_repository(TEXT, address)
    assert re.findall(r'(?:\]\(|src=")([^)"]+)', text) == [
        "https://example.org/files/docs/a.png",
        "https://example.org/files/docs/a.md#part",
        "https://example.org/files/LICENSE",
        "https://example.org/x",
    ]


def test_the_package_is_described_by_the_readme() -> None:
    metadata: dict[str, dict[str, str]] = {}
    Readme(str(ROOT), {}).update(metadata)
    text = metadata["readme"]["text"]
    assert text.startswith("# seg3d\n")
    assert not re.search(r'(?:\]\(|src=")(?!https://)', text)
    for word in ("seg3d train medical_ct", "docs/architecture.md", "## Memory"):
        assert word in text
