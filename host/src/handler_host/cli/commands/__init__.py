"""The commands: one module each, with ``DESCRIPTION``, ``EXAMPLES``, ``add_arguments`` and ``run``.

At the top a module imports only what its ``--help`` needs. ``run`` imports the rest: the HTTP
client, the catalog and the server take up to half a second.
"""

from __future__ import annotations

COMMANDS = {
    "serve": "run the host",
    "ps": "list the handlers with their state and memory",
    "load": "activate handlers before their first request",
    "unload": "stop the workers of handlers and free their memory",
    "reload": "unload handlers, so that the next dispatch runs the installed version",
    "pin": "keep handlers active in spite of idle time and memory pressure",
    "unpin": "allow pinned handlers to be unloaded again",
    "events": "show what happened in the host",
    "rescan": "find newly installed, upgraded and removed plugins",
    "memory": "show the memory of the host and its workers against the limit",
    "top": "watch handlers and memory live, and control them with keys",
    "drain": "refuse new work and finish the work in progress",
    "dispatch": "run an operation of a handler and print its response",
    "chat": "chat with a handler",
    "config": "show or check the configuration",
    "keys": "create, list and revoke consumer keys",
    "new": "create the project of a plugin",
    "check": "check whether a plugin is ready for other people",
    "dev": "serve a plugin from its source and reload it on each change",
    "env": "give a handler a virtual environment of its own",
    "doctor": "find problems in the installation and plan its memory",
    "version": "print the version",
}
"""The summary of each command, by name, which is also the name of its module."""
