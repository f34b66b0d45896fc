"""A note of pending work survives a crash of the machine, and writers of several threads do not disturb each other."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handler_host.plugin import pending


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Return what ``os.fsync`` has written to disk so far, each with whether the note had its name then."""
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        seen.append((path, (tmp_path / pending.FILE_NAME).exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return seen


def test_a_new_note_is_on_disk_with_its_name(tmp_path: Path, synced: list[tuple[str, bool]]) -> None:
    pending.write(tmp_path, 3, 60.0)
    (content, named_before), (directory, named_after), (parent, _) = synced
    assert content.startswith(f"{tmp_path}/{pending.FILE_NAME}.")
    assert not named_before, "a note must be complete on disk before it gets its name"
    assert (directory, named_after, parent) == (str(tmp_path), True, str(tmp_path.parent))


def test_a_changed_note_is_complete_on_disk(tmp_path: Path, synced: list[tuple[str, bool]]) -> None:
    """The directory has the name already: a crash leaves the old note or the new one, and both wake the handler."""
    pending.write(tmp_path, 3, 60.0)
    synced.clear()
    pending.write(tmp_path, 4, 60.0)
    ((content, _),) = synced
    assert content.startswith(f"{tmp_path}/{pending.FILE_NAME}.")


def test_threads_may_write_at_the_same_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for write in [pool.submit(pending.write, tmp_path, count % 3, 60.0) for count in range(400)]:
            write.result()
    assert set(os.listdir(tmp_path)) <= {pending.FILE_NAME}
