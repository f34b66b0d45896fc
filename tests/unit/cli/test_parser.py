"""The help of all commands."""

from __future__ import annotations

import argparse

import pytest

from handler_host.cli.parser import COMMANDS, make_parser


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_80_columns(command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = make_parser([] if command is None else [command])
    if command is not None:
        (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = commands.choices[command]
    assert [line for line in parser.format_help().splitlines() if len(line) > 80] == []
