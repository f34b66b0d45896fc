"""``handler-host env``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from handler_host.cli.failure import USAGE, Failure
from handler_host.cli.options import add_config_options, load_configuration

DESCRIPTION = (
    "For a plugin whose dependencies conflict with those of the others: its worker runs with the interpreter of its "
    "own environment. `create` installs the plugin there as it is installed here, or the PACKAGE you name; it uses "
    "uv if that is installed, otherwise venv and pip. A running host uses the environment after `rescan`."
)
EXAMPLES = (
    "handler-host env create gpt_a",
    "handler-host env create gpt_a -r openai3.txt --installer=--no-deps",
    "handler-host env list",
    "handler-host env remove gpt_a",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("action", choices=("create", "list", "remove"), help="what to do")
    parser.add_argument("handler", nargs="?", metavar="HANDLER", help="the handler, for create and remove")
    parser.add_argument(
        "package", nargs="*", metavar="PACKAGE", help="what to install, as for pip (default: the installed plugin)"
    )
    parser.add_argument(
        "-r", "--requirements", action="append", metavar="FILE", help="file of locked versions, installed first"
    )
    parser.add_argument(
        "--installer", action="append", metavar="OPTION", help="option for pip install or uv pip install"
    )
    parser.add_argument("--python", metavar="PATH", help="interpreter (default: the one that runs this command)")
    parser.add_argument("--replace", action="store_true", help="delete an existing environment first")
    add_config_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Create, list or remove environments."""
    from handler_host.cli.virtual_environments import (
        create_environment,
        directory_of,
        list_environments,
        remove_environment,
    )

    config = load_configuration(arguments).config
    if arguments.action == "list":
        return list_environments(directory_of(config))
    if arguments.handler is None:
        raise Failure(f"no handler is named: handler-host env {arguments.action} HANDLER", USAGE)
    if arguments.action == "remove":
        return remove_environment(directory_of(config), arguments.handler)
    return create_environment(
        config,
        arguments.handler,
        packages=arguments.package,
        requirements=arguments.requirements or (),
        installer_options=arguments.installer or (),
        python=arguments.python,
        replace=arguments.replace,
    )
