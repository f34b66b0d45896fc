"""Replace files atomically: readers see the old content or the new content, also after a crash."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace the content of ``path`` and set its permissions to ``mode``.

    Creates missing parent directories. Raises OSError and then leaves the old file as it was.
    Blocks until the content is on disk: call it in a thread.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            # Before the rename: otherwise a crash of the machine can leave an empty file under the final name.
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
