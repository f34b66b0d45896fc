"""When a note of pending work is due, on clocks that are set while it waits."""

from __future__ import annotations

from handler_host.lifecycle.pending_work import PendingWorkScheduler
from handler_host.plugin.pending import Note


def test_a_wall_clock_that_is_set_back_delays_no_note() -> None:
    scheduler = PendingWorkScheduler(None, {}, lambda: False)
    note = Note(count=1, due=10_010.0)
    assert not scheduler.is_due("sheets", note, now=10_000.0, monotonic=0.0)
    assert not scheduler.is_due("sheets", note, now=6_405.0, monotonic=5.0)
    assert scheduler.is_due("sheets", note, now=6_410.0, monotonic=10.0)
    later = Note(count=1, due=6_420.0)
    assert not scheduler.is_due("sheets", later, now=6_410.0, monotonic=10.0)
    assert scheduler.is_due("sheets", later, now=6_420.0, monotonic=11.0)
