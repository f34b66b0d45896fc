"""The parser of the command line. It imports the modules of the commands that it is asked for, and no others."""

from __future__ import annotations

import argparse
import importlib
import textwrap
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any

from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.versions import __version__

COMMANDS = {
    "serve": "run the host",
    "ps": "list the handlers with their state and memory",
    "load": "activate handlers before their first request",
    "unload": "stop the workers of handlers and free their memory",
    "reload": "unload handlers, so that the next dispatch runs the installed version",
    "pin": "keep handlers active in spite of idle time and memory pressure",
    "unpin": "allow pinned handlers to be unloaded again",
    "forget": "discard the memory that was learned of handlers",
    "why": "explain a failed request, or list the last ones",
    "events": "show what happened in the host",
    "rescan": "find newly installed, upgraded and removed plugins",
    "memory": "show the memory of the host and its workers against the limit",
    "top": "watch handlers and memory live, and control them with keys",
    "drain": "refuse new work and finish the work in progress",
    "dispatch": "run an operation of a handler and print its response",
    "chat": "chat with a handler",
    "init": "write a configuration file for the installed handlers",
    "config": "show or check the configuration",
    "keys": "create, list and revoke consumer keys",
    "new": "create the project of a plugin",
    "check": "check whether a plugin is ready for other people",
    "dev": "serve a plugin from its source and reload it on each change",
    "env": "give a handler a virtual environment of its own",
    "compile": "compile the packages of handlers for lean imports",
    "doctor": "find problems in the installation and plan its memory",
    "completion": "print a completion script for your shell",
    "version": "print the version",
}
"""The summary of each command, by name, which is also the name of its module in ``handler_host.cli.commands``."""

HELP_WIDTH = 78
"""Characters in a line of a command's description."""

OVERVIEW = """\
examples:
  handler-host serve --config host.toml    run the host
  handler-host ps                          list the handlers and their memory
  handler-host chat gpt_e "Who are you?"   chat with it; activates it first
  handler-host unload gpt_e                free its memory

ps, load, unload, reload, pin, unpin, forget, why, events, rescan, memory, top,
drain, dispatch and chat send requests to a running host. doctor does too, if
--url or HANDLER_HOST_URL is set.
  address      --url or HANDLER_HOST_URL (default: http://127.0.0.1:8080)
  admin token  --token-file or HANDLER_HOST_ADMIN_TOKEN; dispatch and chat need
               none
  API key      HANDLER_HOST_API_KEY, for dispatch and chat, if the host requires
               one

exit status:
  0  done
  1  refused by the host, or a problem was found
  2  wrong usage or configuration
  3  no host at the address
  130  interrupted with Ctrl-C

`handler-host COMMAND --help` explains a command. NO_COLOR=1 turns colours off.
"""


class _CommandParser(argparse.ArgumentParser):
    """Parser of one command, which reports unknown arguments with the command's own usage."""

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse arguments; exit with an error if some are unknown."""
        parsed, unknown = super().parse_known_args(*arguments, **options)
        if unknown:
            option = unknown[0].partition("=")[0]
            hint = did_you_mean(option, self._option_string_actions) if option.startswith("--") else ""
            self.error(f"unknown arguments: {' '.join(unknown)}{hint}")
        return parsed, unknown


def make_parser(names: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of all commands. Only the commands in ``names`` are imported and get their arguments."""
    parser = argparse.ArgumentParser(
        prog="handler-host",
        description="Run many heavy LLM handlers on a small machine: load each on demand,\nunload it completely.",
        epilog=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, parser_class=_CommandParser
    )
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        if name in names:
            _complete(command, summary, command_module(name))
    return parser


def _complete(command: argparse.ArgumentParser, summary: str, module: ModuleType) -> None:
    """Add a command's description, examples and arguments to its parser."""
    description: str = module.DESCRIPTION
    examples: Sequence[str] = module.EXAMPLES
    sentence = f"{summary[0].upper()}{summary[1:]}."
    command.description = f"{sentence}\n\n{textwrap.fill(description, HELP_WIDTH)}".rstrip()
    command.epilog = "\n  ".join([f"example{'s' if len(examples) > 1 else ''}:", *examples])
    module.add_arguments(command)


def command_module(name: str) -> ModuleType:
    """Import and return the module of a command."""
    return importlib.import_module(f"handler_host.cli.commands.{name}")
