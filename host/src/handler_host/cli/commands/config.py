"""``handler-host config``."""

from __future__ import annotations

import argparse
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.options import add_config_options, load_configuration
from handler_host.cli.render import echo, echo_json, note

if TYPE_CHECKING:
    from handler_host.config import Config

DESCRIPTION = (
    "`show` prints all keys in force as a configuration file, each with its source; secrets are masked. `check` also "
    "compares the settings of handlers with their manifests. `hash` reads a key from standard input and prints the "
    "hash to store in a file. `schema` prints the JSON Schema of the file, with the settings of the installed "
    "handlers: editors use it to complete and check keys."
)
EXAMPLES = (
    "handler-host config --config host.toml",
    "handler-host config check --config host.toml",
    "openssl rand -hex 24 | tee key | handler-host config hash",
    "handler-host config schema > host.schema.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("show", "check", "hash", "schema"),
        default="show",
        help="what to do (default: show)",
    )
    parser.add_argument("--json", action="store_true", help="show as JSON, in seconds and bytes")
    add_config_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Show or check the configuration, hash a key, or print the schema."""
    if arguments.action == "hash":
        return _hash_key()
    if arguments.action == "schema":
        return _print_schema(arguments)
    loaded = load_configuration(arguments)
    if arguments.action == "check":
        return _check(loaded.config)
    from handler_host.cli.config_view import to_json, toml_lines

    if arguments.json:
        echo_json(to_json(loaded))
    else:
        for line in toml_lines(loaded):
            echo(line)
    return OK


def _hash_key() -> int:
    """Print the hash of a key. The key is not an argument, because other users can see the arguments of a process."""
    import getpass

    from handler_host.auth.access_flaws import MIN_KEY_LENGTH
    from handler_host.config.loader import hash_key

    key = (getpass.getpass("key: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if len(key) < MIN_KEY_LENGTH:
        raise Failure(
            f"the key has fewer than {MIN_KEY_LENGTH} characters; use a long random one, such as from "
            "`openssl rand -hex 24`",
            USAGE,
        )
    echo(hash_key(key))
    return OK


def _print_schema(arguments: SimpleNamespace) -> int:
    """Print the JSON Schema of the file, also while the file itself is not valid."""
    from handler_host.catalog.catalog import scan_config
    from handler_host.cli.config_schema import config_schema
    from handler_host.config import Config
    from handler_host.plugin.errors import ConfigError

    try:
        config = load_configuration(arguments).config
    except ConfigError:
        config = Config()
    echo_json(config_schema(scan_config(config, os.environ).entries))
    return OK


def _check(config: Config) -> int:
    """Check the configuration against the manifests of the installed handlers, without importing a plugin."""
    from handler_host.catalog.catalog import scan_config
    from handler_host.cli.config_view import describe_source
    from handler_host.cli.findings import Level
    from handler_host.cli.installation import check_access, check_settings
    from handler_host.plugin.errors import ConfigError

    entries = scan_config(config, os.environ).entries
    problems = []
    for finding in (*check_settings(config, entries), *check_access(config, entries)):
        if finding.level is Level.PROBLEM:
            problems.append(finding.text)
        elif finding.level is Level.WARNING:
            note(f"warning: {finding.place}: {finding.text}")
    for entry in entries.values():
        if entry.problem is not None and entry.problem.state != "blocked":  # the configuration itself disables it
            note(f"warning: {entry.name} cannot run: {entry.problem.state}: {entry.problem.reason}")
    if problems:
        raise ConfigError("\n".join(problems))
    echo(f"{describe_source(config)} is valid")
    return OK
