"""Run the host and note the longest turn of its event loop in processor time (``python bench/loop_turns.py FILE …``).

A turn is the time between two calls of the selector. The time of all threads counts: while another one holds the
interpreter's lock, the loop waits for it. FILE has the seconds as a double, which a benchmark reads and sets to zero.
"""

from __future__ import annotations

import mmap
import selectors
import struct
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = struct.Struct("d")


def note_turns(file: Path) -> None:
    """Note the longest turn in ``file`` from now on."""
    with file.open("r+b") as opened:
        longest = mmap.mmap(opened.fileno(), SECONDS.size)
    select = selectors.DefaultSelector.select
    started_s = time.process_time()

    def timed_select(selector: Any, timeout: float | None = None) -> Any:
        nonlocal started_s
        turn_s = time.process_time() - started_s
        if turn_s > SECONDS.unpack_from(longest)[0]:
            SECONDS.pack_into(longest, 0, turn_s)
        try:
            return select(selector, timeout)
        finally:
            started_s = time.process_time()

    selectors.DefaultSelector.select = timed_select  # type: ignore[assignment]


if __name__ == "__main__":
    note_turns(Path(sys.argv.pop(1)))
    from handler_host.cli.main import main

    sys.exit(main())
