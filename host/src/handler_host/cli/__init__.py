"""The command line: ``handler-host COMMAND``. The only place that prints or exits.

Each command's module is imported when the command is run, so that the server
does not carry the tools, and ``--help`` does not wait for the server.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace

from handler_host.cli.failure import INTERRUPTED, OK, USAGE, Failure
from handler_host.plugin.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: see ``handler_host.cli.failure``."""
    try:
        arguments = _parsed(sys.argv[1:] if argv is None else argv)
        status = _run(arguments)
        sys.stdout.flush()
    except SystemExit as end:  # argparse has said what there is to say
        return end.code if isinstance(end.code, int) else USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads has seen enough (`| head`); what is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return status


def _parsed(argv: Sequence[str]) -> SimpleNamespace:
    """Return the arguments, as an object that keeps nothing of the parser alive."""
    from handler_host.cli.parser import make_parser

    parser = make_parser()
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(USAGE)
    return SimpleNamespace(**vars(parser.parse_args(argv)))


def _run(arguments: SimpleNamespace) -> int:
    module = importlib.import_module(f"handler_host.cli.{arguments.module}")
    try:
        status: int = getattr(module, arguments.command)(arguments)
    except ConfigError as error:
        sys.stderr.write(f"handler-host: {error.message}\n")
        return USAGE
    except Failure as failure:
        from handler_host.cli.render import put_failure

        put_failure(failure, as_json=getattr(arguments, "json", False))
        return failure.status
    return status
