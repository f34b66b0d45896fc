"""``handler-host reload``: an unload after which the host takes the plugin as it is installed now."""

from __future__ import annotations

from handler_host.cli.commands.unload import add_arguments, run

DESCRIPTION = "Use it after an upgrade of a plugin. `rescan` finds plugins that are new."
EXAMPLES = ("handler-host reload gpt_a",)

__all__ = ["DESCRIPTION", "EXAMPLES", "add_arguments", "run"]
