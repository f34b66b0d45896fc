"""``handler-host keys``."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

from handler_host.cli.failure import USAGE, Failure
from handler_host.cli.options import add_config_options, add_host_options, load_configuration

DESCRIPTION = (
    "A consumer is a client with a name, a key and limits. Consumers are stored in a file (auth.consumers_file, or "
    "--file), with a hash instead of the key: `new` prints the key, which cannot be shown again. `rotate` prints a "
    "new key for the same consumer, whose old key stays valid for a while. A running host reads the file again when "
    "it changes. `usage` asks a running host for the tokens of each consumer."
)
EXAMPLES = (
    "handler-host keys new team-a --handlers gpt_a,gpt_e --expires 90d",
    "handler-host keys list",
    "handler-host keys rotate team-a --overlap 14d",
    "handler-host keys revoke team-a --file consumers.toml",
    "handler-host keys usage --url http://127.0.0.1:8080",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("action", choices=("new", "list", "rotate", "revoke", "usage"), help="what to do")
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the consumer; for usage and list not needed")
    parser.add_argument("--file", metavar="FILE", help="file of the consumers (default: auth.consumers_file)")
    parser.add_argument("--handlers", metavar="A,B", help="handlers that the key may call (default: all)")
    parser.add_argument("--requests-per-minute", metavar="N", type=int, help="requests per minute (default: no limit)")
    parser.add_argument("--tokens-per-minute", metavar="N", type=int, help="tokens per minute (default: no limit)")
    parser.add_argument("--tokens-per-day", metavar="N", type=int, help="tokens per day in UTC (default: no limit)")
    parser.add_argument("--concurrency", metavar="N", type=int, help="dispatches at the same time (default: no limit)")
    parser.add_argument("--expires", metavar="WHEN", help="date (2027-01-01), time, or time from now (90d)")
    parser.add_argument(
        "--overlap", metavar="TIME", default="7d", help="for rotate: how long the old key stays valid (default: 7d)"
    )
    add_host_options(parser)
    add_config_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Create a key, list the consumers, rotate or revoke a key, show the tokens of each consumer."""
    if arguments.action == "usage":
        from handler_host.cli.client import Client  # the other actions send no request
        from handler_host.cli.token_usage import show_usage

        return show_usage(Client.from_arguments(arguments), arguments.name, as_json=arguments.json)
    from handler_host.auth.consumer_file import LIMITS
    from handler_host.cli.consumer_keys import check_handlers, create_key, list_keys, revoke_key, rotate_key

    file = _file(arguments)
    if arguments.action == "list":
        return list_keys(file, as_json=arguments.json)
    if not arguments.name:
        raise Failure(f"no consumer is named: handler-host keys {arguments.action} team-a", USAGE)
    if arguments.action == "revoke":
        return revoke_key(file, arguments.name)
    if arguments.action == "rotate":
        return rotate_key(file, arguments.name, overlap=arguments.overlap)
    handlers = None
    if arguments.handlers:
        handlers = [name.strip() for name in arguments.handlers.split(",") if name.strip()]
        check_handlers(handlers, load_configuration(arguments).config)
    return create_key(
        file,
        arguments.name,
        handlers=handlers,
        limits={limit: getattr(arguments, limit) for limit in LIMITS},
        expires=arguments.expires,
    )


def _file(arguments: SimpleNamespace) -> Path:
    if arguments.file is not None:
        return Path(arguments.file)
    configured: Path | None = load_configuration(arguments).config.auth.consumers_file
    if configured is None:
        raise Failure("no consumers file; set auth.consumers_file in the configuration, or use --file", USAGE)
    return configured
