"""``handler-host new``: a project from the template in ``handler_host/cli/templates/plugin``."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path
from types import SimpleNamespace

from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.render import echo

DESCRIPTION = (
    "The project has sources, a manifest and tests, and passes `handler-host check`. The kinds are: chat, a handler "
    "for another provider with the OpenAI protocol; operations, a handler with typed operations; local-model, a "
    "handler that runs a GGUF file in its worker."
)
EXAMPLES = ("handler-host new my_gpt", "handler-host new weather --kind operations")
TEMPLATE = Path(__file__).parents[1] / "templates" / "plugin"
BASE_PLUGINS = {"chat": "handler-host-gpt-a", "local-model": "handler-host-gpt-e"}
"""The distribution that a kind of project builds on."""
_NAME = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", metavar="NAME", help="name of the handler")
    parser.add_argument(
        "--kind", choices=("chat", "operations", "local-model"), default="chat", help="kind of handler (default: chat)"
    )
    parser.add_argument("--directory", metavar="DIR", help="directory of the project (default: NAME)")


def run(arguments: SimpleNamespace) -> int:
    """Write the project and print the next steps."""
    name: str = arguments.name
    package = name.replace("-", "_")
    if _NAME.fullmatch(name) is None:
        raise Failure(
            f"{name!r}: invalid handler name; use lowercase letters, digits, _ and -, starting with a letter", USAGE
        )
    if keyword.iskeyword(package) or package in sys.stdlib_module_names:
        raise Failure(f"{package!r}: Python uses this name itself; choose another one", USAGE)
    _refuse_installed(name, package)
    target = Path(arguments.directory or name)
    if target.exists() and any(target.iterdir()):
        raise Failure(f"{target}: the directory is not empty; name another one with --directory", USAGE)
    try:
        from copier import run_copy
    except ImportError as error:
        raise Failure("new needs copier: pip install 'handler-host[tools]'") from error
    run_copy(str(TEMPLATE), target, {"name": name, "kind": arguments.kind}, defaults=True, quiet=True)
    echo(f"created {target} with a handler of kind {arguments.kind}. Next:")
    echo()
    base = BASE_PLUGINS.get(arguments.kind)
    if base is not None and not _is_installed(base):
        echo(f"  # {base} is not installed here, and on no package index: install it from a clone")
        echo(f"  pip install ./handler-host/plugins/{base.removeprefix('handler-host-').replace('-', '_')}")
    echo(f"  cd {target} && pip install -e '.[dev]'")
    echo("  handler-host dev .       # serve it; each change is loaded at once")
    echo("  handler-host check .     # is it ready for other people?")
    echo("  pytest && mypy && ruff check .")
    echo("  # CI: .github/workflows/ci.yml installs handler-host from wheels/; put the wheels of `make dist` there")
    return OK


def _refuse_installed(name: str, package: str) -> None:
    """Raise :class:`Failure` if an installed package has the name, or another plugin a handler of this name."""
    from importlib.util import find_spec

    from handler_host.catalog.catalog import scan
    from handler_host.config import CatalogConfig

    handler = scan(CatalogConfig(), {}).entries.get(name)
    if handler is not None:
        raise Failure(f"{name!r}: {handler.distribution} has a handler of this name; choose another one", USAGE)
    spec = find_spec(package)
    if spec is not None and spec.origin is not None:  # None: a mere directory
        raise Failure(f"{name!r}: a package {package} is installed here ({spec.origin}); choose another name", USAGE)


def _is_installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
