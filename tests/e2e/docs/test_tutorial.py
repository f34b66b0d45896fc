"""The tutorial's commands, run in order as they stand, print the output that the page shows."""

from __future__ import annotations

import re

import pytest

from tests.e2e.docs.reading import ROOT, Reader, blocks, free_port, steps

PAGE = ROOT / "docs/tutorial/first-plugin.md"
LINES_OF_PYTHON, LINES_OF_TOML = 12, 10


@pytest.mark.slow
def test_the_tutorial_runs_from_new_to_a_checked_plugin(reader: Reader) -> None:
    text = PAGE.read_text()
    for port in ("9001", "8080"):
        text = text.replace(port, str(free_port()))
    parrot = reader.directory / "parrot"
    parrot.mkdir()
    for language, name in (("toml", "pyproject.toml"), ("python", "parrot.py")):
        (source,) = blocks(text, language)
        (parrot / name).write_text(source)
    (url,) = set(re.findall(r"(http://127\.0\.0\.1:\d+)/v1/chat", text))
    reader.environment["HANDLER_HOST_URL"] = url  # the page's port is the default
    done = []
    for command, shown in steps(text):
        output = reader.run(command)
        for line in filter(None, shown.splitlines()):
            pattern = ".*".join(re.escape(part) for part in line.split("…"))
            assert re.search(pattern, output), f"{command}: no {line!r} in {output}"
        done.append(command.split()[0])
    assert done.count("handler-host") == 8


def test_the_smallest_variant_is_small() -> None:
    for language, most in (("python", LINES_OF_PYTHON), ("toml", LINES_OF_TOML)):
        (source,) = blocks(PAGE.read_text(), language)
        assert len([line for line in source.splitlines() if line.strip()]) <= most
