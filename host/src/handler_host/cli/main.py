"""Entry point of ``handler-host``: parse the arguments, import the command's module, run it.

Only the module of the command that runs is imported: the server must not carry the
tools, and ``--help`` must not wait for the server's imports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace

from handler_host._internal.standard_streams import discard_output, flush_errors, open_closed_streams
from handler_host._internal.suggestions import did_you_mean
from handler_host.cli.failure import INTERRUPTED, OK, USAGE, Failure
from handler_host.cli.parser import COMMANDS, command_module, make_parser
from handler_host.plugin.errors import ConfigError


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
    finally:
        flush_errors()
    return status


def _parse(words: Sequence[str]) -> SimpleNamespace:
    """Return the arguments as an object without references to the parser, so that `serve` frees the parser."""
    if words[1:2] == ["doctor"] and words[0] not in COMMANDS and not words[0].startswith("-"):
        words = ["doctor", words[0], *words[2:]]  # `handler-host ray doctor`
    parser = make_parser([name for name in words[:1] if name in COMMANDS])
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(USAGE)
    if words[0] not in COMMANDS and not words[0].startswith("-"):
        parser.error(f"unknown command {words[0]!r}{did_you_mean(words[0], COMMANDS)}")
    return SimpleNamespace(**vars(parser.parse_args(words)))


def _run(arguments: SimpleNamespace) -> int:
    try:
        status: int = command_module(arguments.command).run(arguments)
    except ConfigError as error:
        sys.stderr.write(f"handler-host: {error.message}\n")
        return USAGE
    except FileNotFoundError:
        if _has_working_directory():
            raise
        sys.stderr.write("handler-host: the working directory was removed; change to a directory that exists\n")
        return USAGE
    except Failure as failure:
        from handler_host.cli.render import echo_failure

        echo_failure(failure, as_json=getattr(arguments, "json", False))
        return failure.status
    return status


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True
