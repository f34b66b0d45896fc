"""``python -m handler_host.testing``: a scripted provider by itself, to try clients on or to measure against."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from handler_host.testing.script import Reply
from handler_host.testing.upstream import Upstream


async def serve(port: int, reply: Reply) -> None:
    """Serve until SIGTERM or SIGINT; the first line on standard output has the address."""
    upstream = Upstream(record=False)
    upstream.respond_with(reply)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with upstream.serve(port):
        sys.stdout.write(f"ready {upstream.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Read the arguments, and serve."""
    parser = argparse.ArgumentParser(prog="python -m handler_host.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one (default)")
    parser.add_argument("--chunks", type=int, default=2, help="number of chunks of a streamed response")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each chunk")
    arguments = parser.parse_args()
    reply = Reply(tuple(f"word{number} " for number in range(arguments.chunks)), pause=arguments.pause)
    asyncio.run(serve(arguments.port, reply))


if __name__ == "__main__":
    main()
