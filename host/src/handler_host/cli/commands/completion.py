"""``handler-host completion``: a script by shtab, from the extra ``tools``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from handler_host.cli.failure import OK, Failure
from handler_host.cli.render import echo

DESCRIPTION = (
    "The script completes commands, options, choices and file names. Save it where your shell looks for completions, "
    "as in the examples (for bash with its package bash-completion), and start a new shell. Save it again "
    "after an upgrade. Needs the extra: pip install 'handler-host[tools]'."
)
EXAMPLES = (
    "mkdir -p ~/.local/share/bash-completion/completions && cd $_",
    "handler-host completion bash > handler-host",
    'handler-host completion zsh > "${fpath[1]}/_handler-host"',
    "handler-host completion fish > ~/.config/fish/completions/handler-host.fish",
)
SHELLS = ("bash", "zsh", "fish")
FILES, DIRECTORIES = {"FILE"}, {"DIR"}
"""Metavars of arguments whose values are files or directories."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(arguments: SimpleNamespace) -> int:
    """Print the script."""
    from handler_host.cli.parser import make_parser

    try:
        import shtab
    except ImportError as error:
        raise Failure("completion needs shtab: pip install 'handler-host[tools]'") from error
    parser = make_parser()
    for action in _actions(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    echo(shtab.complete(parser, shell=arguments.shell))
    return OK


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments of the parser and of all its commands."""
    actions = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                actions += _actions(command)
    return actions
