"""``handler-host new``: a plugin's project, from the template in ``host/templates/plugin``."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace

from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.render import echo

TEMPLATE = Path(__file__).parent / "templates" / "plugin"
BASES = {"chat": "handler-host-gpt-a", "local-model": "handler-host-gpt-e"}
"""The distribution on which a kind of plugin builds."""
_NAME = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII)


def new(arguments: SimpleNamespace) -> int:
    """Write the project, and say what comes next."""
    name: str = arguments.name
    package = name.replace("-", "_")
    if _NAME.fullmatch(name) is None:
        raise Failure(f"{name!r} is no handler's name: lowercase letters, digits, _ and -, a letter first", USAGE)
    if keyword.iskeyword(package) or package in sys.stdlib_module_names:
        raise Failure(f"{package!r} is a word of Python's own, and cannot be a package: take another name", USAGE)
    target = Path(arguments.directory or name)
    if target.exists() and any(target.iterdir()):
        raise Failure(f"{target} is there already, and not empty: name another with --directory", USAGE)
    try:
        from copier import run_copy
    except ImportError as error:
        raise Failure("new needs copier: pip install 'handler-host[tools]'") from error
    run_copy(str(TEMPLATE), target, {"name": name, "kind": arguments.kind}, defaults=True, quiet=True)
    echo(f"{target} has a handler of the kind {arguments.kind!r}. Next:")
    echo()
    base = BASES.get(arguments.kind)
    if base is not None and not _is_installed(base):
        echo(f"  # {base} is not installed in this environment, and on no package index: take it from a clone")
        echo(f"  pip install ./handler-host/plugins/{base.removeprefix('handler-host-').replace('-', '_')}")
    echo(f"  cd {target} && pip install -e '.[dev]'")
    echo("  handler-host dev .       # try it; edit, and try again")
    echo("  handler-host check .     # is it fit for others?")
    echo("  pytest && mypy && ruff check .")
    return OK


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
