"""``handler-host chat``."""

from __future__ import annotations

import argparse
import sys
from types import SimpleNamespace

from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.options import add_host_options

DESCRIPTION = (
    "The response is printed as it arrives. Without MESSAGE, a terminal gets a dialogue: the handler sees the whole "
    "conversation, Ctrl-C stops a response, and Ctrl-D ends the dialogue. From a pipe, all input is one message."
)
EXAMPLES = (
    'handler-host chat gpt_e "Who are you?"',
    "handler-host chat -v gpt_e",
    'git diff | handler-host chat gpt_a --system "Write a commit message for this."',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="a handler, or handler/model")
    parser.add_argument("message", nargs="?", metavar="MESSAGE", help="the user's message; - for standard input")
    parser.add_argument("--system", metavar="TEXT", help="instructions for the model")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="maximum length of a response")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 for the most likely response")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print times and tokens: cold start, first chunk, total"
    )
    add_host_options(parser, admin=False, json=False)


def run(arguments: SimpleNamespace) -> int:
    """Send one message and print the response, or start a dialogue."""
    from handler_host.cli.client import Client
    from handler_host.cli.dialogue import Dialogue, converse

    dialogue = Dialogue(
        Client.from_arguments(arguments),
        arguments.model,
        system=arguments.system,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        verbose=arguments.verbose,
    )
    if arguments.message is None and sys.stdin.isatty():
        return converse(dialogue)
    message = arguments.message if arguments.message not in (None, "-") else sys.stdin.read()
    if not message.strip():
        raise Failure(f'the message is empty; write one: handler-host chat {arguments.model} "Who are you?"', USAGE)
    dialogue.send(message)
    return OK
