"""``handler-host serve``.

Of the command line only the parser is in the server's memory: 0.1 MB, as aiohttp
brings argparse along by itself.
"""

from __future__ import annotations

from types import SimpleNamespace

from handler_host.cli.flags import loaded


def serve(arguments: SimpleNamespace) -> int:
    """Run the host until it is stopped; raises ``ConfigError`` before it serves."""
    config = loaded(arguments).config
    from handler_host.server import run  # a wrong configuration is told at once, not after the imports

    return run(config, lambda: loaded(arguments).config)
