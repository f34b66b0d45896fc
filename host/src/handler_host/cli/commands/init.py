"""``handler-host init``: a first configuration file for the handlers that are installed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from handler_host._internal.suggestions import did_you_mean
from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.render import echo

if TYPE_CHECKING:
    from handler_host.catalog.catalog_entry import CatalogEntry

DESCRIPTION = (
    "Asks which of the installed handlers to use, unless --handlers names them or standard input is not a terminal "
    "(then all). The file has each handler's settings as comments with their defaults; the other handlers are "
    "disabled. The command prints which secrets are missing. It imports no plugin."
)
EXAMPLES = ("handler-host init", "handler-host init host.toml --handlers gpt_a,sheets --memory-limit 512MB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("file", nargs="?", default="host.toml", metavar="FILE", help="default: host.toml")
    parser.add_argument("--handlers", metavar="A,B", help="handlers to use, or all")
    parser.add_argument("--port", type=int, default=8080, metavar="PORT", help="port to listen on (default: 8080)")
    parser.add_argument(
        "--memory-limit", default="auto", metavar="SIZE", help="memory of all processes together (512MB; default: auto)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(arguments: SimpleNamespace) -> int:
    """Write the file, and print the secrets that are missing."""
    from handler_host._internal.units import parse_size
    from handler_host.catalog.catalog import scan_config
    from handler_host.config.loader import load_config

    path = Path(arguments.file)
    if path.exists() and not arguments.force:
        raise Failure(f"{path} exists; name another file, or replace it with --force", USAGE)
    if arguments.memory_limit != "auto":
        try:
            parse_size(arguments.memory_limit)
        except ValueError as error:
            raise Failure(f"--memory-limit: {error}", USAGE) from None
    entries = scan_config(load_config(None, os.environ).config, os.environ).entries
    if not entries:
        raise Failure("no handler is installed; install a plugin first (pip install ./plugins/gpt_a)", USAGE)
    names = _select(entries, arguments.handlers)
    try:
        path.write_text("\n".join(_lines(path, entries, names, arguments)) + "\n", encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror}", USAGE) from None
    echo(f"wrote {path} with {', '.join(names)}")
    _echo_next_steps(path, [entries[name] for name in names])
    return OK


def _select(entries: Mapping[str, CatalogEntry], option: str | None) -> list[str]:
    """Return the handlers of the option; without it, those that the user names, or all without a terminal."""
    response = option
    if response is None and sys.stdin.isatty():
        for name, entry in entries.items():
            echo(f"  {name:<12}  {_description(entry)}")
        try:
            response = input("handlers to use, separated by commas (Enter: all): ")
        except EOFError:
            raise Failure("no handlers were named, so nothing was written; press Enter for all", USAGE) from None
    names = [name.strip() for name in (response or "").split(",") if name.strip()]
    if not names or names == ["all"]:
        return list(entries)
    for name in names:
        if name not in entries:
            raise Failure(f"no handler {name!r} is installed{did_you_mean(name, entries)}", USAGE)
    return list(dict.fromkeys(names))


def _lines(
    path: Path, entries: Mapping[str, CatalogEntry], names: Sequence[str], arguments: SimpleNamespace
) -> Iterator[str]:
    """Yield the lines of the file."""
    from handler_host.config.toml_text import toml_key

    yield "# Configuration of handler-host. A line with # is a default or an example; remove the # to change it."
    yield f"# All keys: `handler-host config show`. Check it: `handler-host config check --config {path}`"
    yield from ("", "[server]")
    yield 'host = "127.0.0.1"  # "0.0.0.0" serves other machines, and needs HANDLER_HOST_API_KEYS'
    yield f"port = {arguments.port}"
    yield from ("", "[memory]")
    yield f'limit = "{arguments.memory_limit}"  # of all processes together; auto: of the container or the machine'
    yield from ("", "[defaults]")
    yield '# idle_after = "5m"  # a worker without requests ends after this time, and its memory is free'
    for name in names:
        yield from ("", f"[handlers.{toml_key(name)}]")
        yield from _handler_lines(entries[name])
    for name in (name for name in entries if name not in names):
        yield from ("", f"[handlers.{toml_key(name)}]", "enabled = false")


def _handler_lines(entry: CatalogEntry) -> Iterator[str]:
    """Yield the description, secrets and settings of a handler, as comments."""
    from handler_host.config.toml_text import toml_literal

    if _description(entry):
        yield f"# {_description(entry)}"
    manifest = entry.manifest
    if manifest is None:
        return
    for name, secret in manifest.secrets.items():
        yield f"# environment variable {name}: {_one_line(secret.description) or 'a secret'}"
    for key, setting in manifest.config.items():
        value = "..." if setting.default is None else toml_literal(setting.default)
        required = "required; " if setting.required and setting.default is None else ""
        yield f"# {key} = {value}  # {required}{_one_line(setting.description)}".removesuffix("  # ")


def _echo_next_steps(path: Path, entries: Sequence[CatalogEntry]) -> None:
    """Print the secrets that are missing here, and the commands to run next."""
    from handler_host.catalog.secrets import read_secrets

    missing = []
    if not os.environ.get("HANDLER_HOST_ADMIN_TOKEN"):
        missing.append("export HANDLER_HOST_ADMIN_TOKEN=$(openssl rand -hex 24)   # for ps, unload, the dashboard")
    for entry in entries:
        values = read_secrets(entry, os.environ)
        for name, secret in (entry.manifest.secrets if entry.manifest is not None else {}).items():
            is_needed = secret.required or secret.required_unless
            if is_needed and name not in values and not secret.has_alternative(values):
                others = f"; or set {' or '.join(secret.required_unless)}" if secret.required_unless else ""
                missing.append(
                    f"export {name}=...   # {entry.name}: {_one_line(secret.description).removesuffix('.')}{others}"
                )
    if missing:
        echo("set in the host's environment:")
        for line in missing:
            echo(f"  {line}")
    echo("then:")
    echo(f"  handler-host config check --config {path}")
    echo(f"  handler-host serve --config {path}")


def _description(entry: CatalogEntry) -> str:
    texts = (entry.title, entry.manifest.description if entry.manifest is not None else "")
    return _one_line(": ".join(filter(None, texts)))


def _one_line(text: str) -> str:
    return " ".join(text.split())
