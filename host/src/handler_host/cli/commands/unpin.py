"""``handler-host unpin``: the opposite of ``pin``."""

from __future__ import annotations

from handler_host.cli.commands.pin import add_arguments, run

DESCRIPTION = "For handlers that `pin` or the configuration has pinned; until the next start of the host."
EXAMPLES = ("handler-host unpin gpt_a",)

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]
