"""The commands and their options, and what ``--help`` says of them."""

from __future__ import annotations

import argparse
from typing import Any

EPILOG = """\
examples:
  handler-host serve --config host.toml        run the host
  handler-host chat gpt_e "Who are you?"       talk to a handler
  handler-host ps                              see who holds the memory
  handler-host unload gpt_d                    get it back

Commands other than serve find the host by --url or HANDLER_HOST_URL, and the admin
token by --token-file or HANDLER_HOST_ADMIN_TOKEN, a consumer key by HANDLER_HOST_API_KEY.
exit status: 0 done, 1 the host said no, 2 wrong usage or configuration, 3 no host there
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each names its ``module`` and ``function``."""
    parser = argparse.ArgumentParser(
        prog="handler-host",
        description="Offers many heavy handlers on a small machine: loaded when needed, unloaded for good.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = _command(commands, "serve", "serve", "run the host", "handler-host serve --config host.toml --port 8080")
    _config_options(serve)

    ps = _command(commands, "ps", "operate", "list the handlers, and what each one takes", "handler-host ps --json")
    _client_options(ps, json=True)

    load = _command(commands, "load", "operate", "activate handlers", "handler-host load gpt_a gpt_b")
    load.add_argument("handlers", nargs="+", metavar="HANDLER")
    _client_options(load, json=True)

    for name, what, example in (
        ("unload", "take handlers' workers away and get their memory back", "handler-host unload gpt_d --mode if_idle"),
        (
            "reload",
            "unload handlers, so that the next dispatch runs what is installed now",
            "handler-host reload gpt_a",
        ),
    ):
        command = _command(commands, name, "operate", what, example)
        command.add_argument("handlers", nargs="*", metavar="HANDLER")
        command.add_argument("--all", action="store_true", help="all handlers that have a worker")
        command.add_argument(
            "--mode",
            choices=("drain", "if_idle", "force"),
            default="drain",
            help="drain: let end what is under way (default); if_idle: only if nothing is; force: end it with an error",
        )
        command.add_argument("--deadline", metavar="10s", help="what dispatches under way get")
        command.add_argument("--no-wait", action="store_true", help="do not wait until it is done")
        _client_options(command, json=True)

    rescan = _command(
        commands, "rescan", "operate", "find newly installed, upgraded and removed plugins", "handler-host rescan"
    )
    _client_options(rescan, json=True)

    memory = _command(commands, "memory", "operate", "show what the host and its processes take", "handler-host memory")
    _client_options(memory, json=True)

    drain = _command(commands, "drain", "operate", "let the host take no new work", "handler-host drain")
    _client_options(drain, json=True)

    dispatch = _command(
        commands,
        "dispatch",
        "ask",
        "run an operation of a handler",
        """handler-host dispatch echo say '{"text": "hello"}'   (JSON, @FILE, or - for standard input)
  handler-host dispatch echo say --text hello --times 3""",
    )
    dispatch.add_argument("handler", metavar="HANDLER")
    dispatch.add_argument("operation", metavar="OPERATION")
    dispatch.add_argument("request", nargs=argparse.REMAINDER, metavar="JSON | --FIELD VALUE ...")
    dispatch.add_argument("--stream", action="store_true", help="show the pieces as they come (before HANDLER)")
    _client_options(dispatch)

    chat = _command(
        commands,
        "chat",
        "ask",
        "talk to a handler",
        'handler-host chat gpt_e "Who are you?"   (without a message: a dialogue)',
    )
    chat.add_argument("model", metavar="MODEL", help="a handler, or handler/model")
    chat.add_argument("message", nargs="?", metavar="MESSAGE")
    chat.add_argument("--system", metavar="TEXT", help="instructions")
    chat.add_argument("-v", "--verbose", action="store_true", help="show what the time went into")
    _client_options(chat)

    config = _command(
        commands,
        "config",
        "settings",
        "show the configuration in force, secrets masked",
        "handler-host config --config host.toml",
    )
    config.add_argument(
        "action",
        nargs="?",
        choices=("show", "check", "hash"),
        default="show",
        help="show it (default), only check it, or hash a key from standard input",
    )
    config.add_argument("--json", action="store_true", help="as JSON")
    _config_options(config)

    _command(commands, "version", "settings", "print the version", "handler-host version")
    return parser


def _command(commands: Any, name: str, module: str, what: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(module=module, function=name)
    return command


def _client_options(command: argparse.ArgumentParser, *, json: bool = False) -> None:
    command.add_argument("--url", help="where the host is (default: HANDLER_HOST_URL, or http://127.0.0.1:8080)")
    command.add_argument("--token-file", metavar="FILE", help="file with the admin token (or HANDLER_HOST_ADMIN_TOKEN)")
    if json:
        command.add_argument("--json", action="store_true", help="print the host's own JSON")


def _config_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", help="a TOML file (default: HANDLER_HOST_CONFIG)")
    command.add_argument("--host", dest="server_host", metavar="ADDRESS", help="address to listen on")
    command.add_argument("--port", dest="server_port", metavar="PORT", help="port to listen on; 0 takes a free one")
    command.add_argument("--log-format", dest="log_format", metavar="text|json")
    command.add_argument("--log-level", dest="log_level", metavar="debug|info|warning|error")
    command.add_argument("--memory-limit", dest="memory_limit", metavar="512MB", help="what all processes may take")
