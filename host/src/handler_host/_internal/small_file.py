"""Read small files in directories that plugins write to, whatever a plugin has put there."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_small_file(path: Path, limit_bytes: int) -> bytes:
    """Return the content of a regular file; raises ``OSError`` for anything else, and for a longer one.

    A FIFO would block, a device would never end, and a link could show the host another file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path}: not a regular file")
        content = os.read(descriptor, limit_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit_bytes:
        raise OSError(f"{path}: longer than {limit_bytes} bytes")
    return content
