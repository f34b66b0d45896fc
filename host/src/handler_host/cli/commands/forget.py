"""``handler-host forget``: discard the memory that was learned of handlers."""

from __future__ import annotations

from types import SimpleNamespace

from handler_host.cli.commands.pin import add_arguments
from handler_host.cli.render import echo

DESCRIPTION = (
    "The host learns how much memory each handler uses, and refuses one that needs more than the limit. After a spike, "
    "forget lets the next worker start with the estimate of the configuration or the manifest. Running workers are not "
    "changed."
)
EXAMPLES = ("handler-host forget gpt_a",)

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]


def run(arguments: SimpleNamespace) -> int:
    """Discard what was learned of handlers and print the result for each."""
    from handler_host.cli.batch import request_each
    from handler_host.cli.client import Client
    from handler_host.cli.receipts import describe_forget

    client = Client.from_arguments(arguments)
    return request_each(
        arguments.handlers,
        lambda name: client.call_admin("POST", "handlers", name, "forget"),
        lambda handler: echo(describe_forget(handler)),
        step="forgetting",
        as_json=arguments.json,
    )
