"""Entry point of ``handler-host``: parse the arguments, import the command's module, run it.

Only the module of the command that runs is imported: the server must not carry the
tools, and ``--help`` must not wait for the server's imports.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from collections.abc import Collection, Sequence
from types import ModuleType, SimpleNamespace

from handler_host._internal.standard_streams import discard_output, open_closed_streams
from handler_host._internal.versions import __version__
from handler_host.cli.commands import COMMANDS
from handler_host.cli.failure import INTERRUPTED, OK, USAGE, Failure
from handler_host.plugin.errors import ConfigError

HELP_WIDTH = 78
"""Characters in a line of a command's description."""

OVERVIEW = """\
examples:
  handler-host serve --config host.toml        run the host
  handler-host ps                              list the handlers and their memory
  handler-host chat gpt_e "Who are you?"       chat with a handler; a cold one is activated first
  handler-host unload gpt_e                    free its memory

ps, load, unload, reload, pin, unpin, events, rescan, memory, top, drain, dispatch and
chat send requests to a running host. doctor does too, if --url or HANDLER_HOST_URL is set.
  address        --url or HANDLER_HOST_URL (default: http://127.0.0.1:8080)
  admin token    --token-file or HANDLER_HOST_ADMIN_TOKEN, for all of them but dispatch and chat
  API key        HANDLER_HOST_API_KEY, for dispatch and chat, if the host requires one

exit status:
  0 done   1 refused by the host, or a problem was found   2 wrong usage or configuration
  3 no host at the address   130 interrupted with Ctrl-C

`handler-host COMMAND --help` explains a command. NO_COLOR=1 turns colours off.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status, one of the constants in ``handler_host.cli.failure``."""
    open_closed_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        status = _run(_parse(words))
        sys.stdout.flush()
    except SystemExit as end:  # argparse has printed the help or the error
        return end.code if isinstance(end.code, int) else USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()  # the reader has closed the pipe (`| head`)
        return OK
    return status


def make_parser(names: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of all commands. Only the commands in ``names`` are imported and get their arguments."""
    parser = argparse.ArgumentParser(
        prog="handler-host",
        description="Run many heavy LLM handlers on a small machine: load each on demand, unload it completely.",
        epilog=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        if name in names:
            _complete(command, summary, _module(name))
    return parser


def _complete(command: argparse.ArgumentParser, summary: str, module: ModuleType) -> None:
    """Add a command's description, examples and arguments to its parser."""
    description: str = module.DESCRIPTION
    examples: Sequence[str] = module.EXAMPLES
    sentence = f"{summary[0].upper()}{summary[1:]}."
    command.description = f"{sentence}\n\n{textwrap.fill(description, HELP_WIDTH)}".rstrip()
    command.epilog = "\n  ".join([f"example{'s' if len(examples) > 1 else ''}:", *examples])
    module.add_arguments(command)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"handler_host.cli.commands.{name}")


def _parse(words: Sequence[str]) -> SimpleNamespace:
    """Return the arguments as an object without references to the parser, so that `serve` frees the parser."""
    parser = make_parser([name for name in words[:1] if name in COMMANDS])
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(USAGE)
    return SimpleNamespace(**vars(parser.parse_args(words)))


def _run(arguments: SimpleNamespace) -> int:
    try:
        status: int = _module(arguments.command).run(arguments)
    except ConfigError as error:
        sys.stderr.write(f"handler-host: {error.message}\n")
        return USAGE
    except Failure as failure:
        from handler_host.cli.render import echo_failure

        echo_failure(failure, as_json=getattr(arguments, "json", False))
        return failure.status
    return status
