"""The command line: ``handler-host COMMAND``. The only place that prints or exits.

Each command's module is imported when the command is run, so that the server
does not carry the tools, and ``--help`` does not wait for the server.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

OK, REFUSED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status.

    0: done; 1: the host said no; 2: wrong usage or configuration; 3: no host there;
    130: interrupted.
    """
    from host.cli.parser import make_parser

    arguments = make_parser().parse_args(argv)
    module = importlib.import_module(f"host.cli.{arguments.module}")
    try:
        status: int = getattr(module, arguments.function)(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads has seen enough (`| head`); nothing more is to be flushed at exit.
        sys.stdout = None
        return OK
    except Exception as error:
        from host.cli.failure import Failure
        from host.errors import ConfigError

        if isinstance(error, ConfigError):
            sys.stderr.write(f"handler-host: {error.message}\n")
            return USAGE
        if isinstance(error, Failure):
            sys.stderr.write(f"handler-host: {error}\n")
            return error.status
        raise
    return status
