"""Read an agent's settings from the page that users copy them from, so that exactly those are run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "connect-clients.md"
URL = "http://127.0.0.1:8080"
"""The address of the host on the page."""
KEY = "a-consumer-key-of-some-length"
"""The host takes any key in these runs; a real one is in its place."""


@dataclass(frozen=True)
class HowTo:
    """The settings of one section of the page."""

    blocks: dict[str, str]
    """The text of each file by its path, and the commands as `sh`."""

    def pairs(self, pattern: str) -> dict[str, str]:
        """Return, for a pattern of `[models]`, a line for each target that the page names, by its handler."""
        (line,) = re.findall(rf'^"{re.escape(pattern)}" = .*', self.blocks["host.toml"], re.MULTILINE)
        targets = re.findall('"([^"]+)"', line)[1:]
        return {target.partition("/")[0]: f'"{pattern}" = "{target}"' for target in targets}

    def environ(self, url: str) -> dict[str, str]:
        """Return the variables that the commands export."""
        return dict(re.findall(r"^export (\w+)=(.*)$", _fill(self.blocks.get("sh", ""), url), re.MULTILINE))

    def files(self, url: str) -> dict[str, str]:
        """Return the text of each file of the client, by its path below the home directory."""
        return {name[2:]: _fill(text, url) for name, text in self.blocks.items() if name.startswith("~/")}


def read(title: str) -> HowTo:
    """Return the settings of a section."""
    section = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```', section, re.MULTILINE | re.DOTALL)
    return HowTo({name or language: text for language, name, text in found})


def _fill(text: str, url: str) -> str:
    return re.sub(r"\bKEY\b", KEY, text.replace(URL, url))
