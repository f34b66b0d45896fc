"""Footprints outlive the host, whatever happens to it or to the file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from handler_host.config import Config, MemoryConfig, with_state_file
from handler_host.memory.footprints import MAX_BYTES, MAX_RECORDS, Footprint, FootprintStore

MB = 1024**2
SUBJECT = ("gpt_a", "handler-host-gpt-a", "1.0")


def learned(path: Path | None) -> FootprintStore:
    found = FootprintStore(path)
    found.load()
    return found


def saved(path: Path) -> FootprintStore:
    found = FootprintStore(path)
    found.record_usage(SUBJECT, peak=80 * MB, steady=60 * MB)
    found.record_activation(SUBJECT, 1.5)
    assert found.has_changes
    found.save(found.snapshot())
    return found


def test_the_next_host_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "memory.json"
    saved(path)
    assert learned(path).get(SUBJECT) == Footprint(*SUBJECT, peak=80 * MB, steady=60 * MB, activate_seconds=1.5)
    assert os.listdir(path.parent) == ["memory.json"]


def test_another_version_has_its_own(tmp_path: Path) -> None:
    saved(tmp_path / "memory.json")
    assert learned(tmp_path / "memory.json").get((*SUBJECT[:2], "1.1")) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format": 1}',
        b'{"format": 2, "footprints": []}',
        b'{"format": 1, "footprints": [{"handler": "a", "distribution": "a", "version": "1", "peak": "big"}]}',
        b'{"format": 1, "footprints": [{"handler": "a", "distribution": "a", "version": "1", "peak": -1}]}',
        b'{"format": 1, "footprints": [{"handler": "a", "distribution": "a", "version": "1", "steady": 1e30}]}',
        b'{"format": 1, "footprints": [{"handler": "a", "distribution": "a", "version": "1", "stop_seconds": -1}]}',
        b'{"format": 1, "x": ' + b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_damaged_file_is_logged_once_ignored_and_replaced(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "memory.json"
    path.write_bytes(content)
    found = learned(path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(path) in record.getMessage()
    assert "ignored" in record.getMessage()
    found.record_usage(SUBJECT, peak=1 * MB, steady=1)
    found.save(found.snapshot())
    assert learned(path).get(SUBJECT) is not None
    assert len(caplog.records) == 1


def test_a_missing_file_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert learned(tmp_path / "memory.json").get(SUBJECT) is None
    assert learned(None).get(SUBJECT) is None
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["directory", "fifo", "under a file"])
def test_without_a_writable_file_footprints_stay_in_memory(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "memory.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "memory.json"
    found = FootprintStore(path)
    found.record_usage(SUBJECT, peak=1 * MB, steady=1)
    found.save(found.snapshot())
    found.save(found.snapshot())
    (record,) = caplog.records
    assert "cannot be written" in record.getMessage()
    assert found.get(SUBJECT) is not None


def test_dev_null_stores_nothing_and_stays_a_device(caplog: pytest.LogCaptureFixture) -> None:
    found = learned(Path(os.devnull))
    found.record_usage(SUBJECT, peak=1 * MB, steady=1)
    found.save(found.snapshot())
    assert found.path is None
    assert Path(os.devnull).is_char_device()
    assert caplog.records == []


def test_small_changes_are_not_worth_a_new_file(tmp_path: Path) -> None:
    found = saved(tmp_path / "memory.json")
    found.record_usage(SUBJECT, peak=80 * MB + 1024, steady=60 * MB)
    assert not found.has_changes
    found.record_usage(SUBJECT, peak=82 * MB, steady=60 * MB)
    assert found.has_changes


def test_a_spike_fades_with_each_worker_that_needs_less() -> None:
    found = FootprintStore(None)
    found.record_usage(SUBJECT, peak=500 * MB, steady=500 * MB)
    for _ in range(10):
        found.record_typical_exit(SUBJECT, peak=60 * MB, steady=50 * MB)
    footprint = found.get(SUBJECT)
    assert footprint is not None
    assert footprint.peak == pytest.approx(60 * MB, abs=1 * MB)
    assert footprint.steady == pytest.approx(50 * MB, abs=1 * MB)


def test_reservation_grows_after_an_oom_kill_within_the_budget() -> None:
    found = FootprintStore(None)
    found.record_usage(SUBJECT, peak=100 * MB, steady=80 * MB)
    found.record_oom_kill(SUBJECT, 200 * MB, 400 * MB)
    footprint = found.get(SUBJECT)
    assert footprint is not None
    assert (footprint.raised, footprint.out_of_memory) == (250 * MB, 1)
    found.record_oom_kill(SUBJECT, 390 * MB, 400 * MB)
    assert footprint.raised == 400 * MB
    # The measured figures stay as they were.
    assert (footprint.peak, footprint.steady) == (100 * MB, 80 * MB)
    for _ in range(12):
        found.record_typical_exit(SUBJECT, peak=100 * MB, steady=80 * MB)
    assert footprint.raised == 0


def test_a_version_never_ready_learns_from_an_oom_kill() -> None:
    store = FootprintStore(None)
    store.record_oom_kill(SUBJECT, 200 * MB, 400 * MB)
    footprint = store.get(SUBJECT)
    assert footprint is not None
    assert (footprint.peak, footprint.steady) == (200 * MB, 0)


def test_the_number_of_versions_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    found = FootprintStore(path)
    for number in range(MAX_RECORDS + 10):
        found.record_usage(("gpt_a", "d", str(number)), peak=MB, steady=1)
    found.record_usage(("gpt_a", "d", "0"), peak=2 * MB, steady=1)
    found.save(found.snapshot())
    assert path.stat().st_size < MAX_BYTES
    again = learned(path)
    assert again.get(("gpt_a", "d", "0")) is not None
    assert again.get(("gpt_a", "d", "5")) is None


class TestPlace:
    def test_in_the_data_directory(self) -> None:
        config = with_state_file(Config(data_dir=Path("/data")), {"HOME": "/home/me"})
        assert config.memory.state_file == Path("/data/.handler-host/memory.json")

    @pytest.mark.parametrize(
        ("environ", "place"),
        [
            ({"HOME": "/home/me"}, "/home/me/.local/state/handler-host/memory.json"),
            ({"HOME": "/home/me", "XDG_STATE_HOME": "/state"}, "/state/handler-host/memory.json"),
            ({"HOME": "/home/me", "XDG_STATE_HOME": "relative"}, "/home/me/.local/state/handler-host/memory.json"),
        ],
    )
    def test_by_xdg(self, environ: dict[str, str], place: str) -> None:
        assert with_state_file(Config(), environ).memory.state_file == Path(place)

    def test_none_without_a_home(self) -> None:
        assert with_state_file(Config(), {}).memory.state_file is None

    def test_configured(self) -> None:
        config = Config(memory=MemoryConfig(state_file=Path("/own.json")), data_dir=Path("/data"))
        assert with_state_file(config, {}).memory.state_file == Path("/own.json")


class TestTrials:
    """A worker whose learned memory exceeds the limit is tried again: the memory may be that of one spike."""

    VERSION = ("puppet", "puppet", "1.0")

    def test_a_version_that_was_ready_is_tried_at_once(self) -> None:
        store = FootprintStore(None)
        store.record_activation(self.VERSION, 1.0)
        assert store.seconds_until_trial(self.VERSION, 100.0) == 0

    def test_any_other_one_after_a_while(self) -> None:
        store = FootprintStore(None)
        store.record_usage(self.VERSION, peak=1, steady=1)
        waits = [store.seconds_until_trial(self.VERSION, now) for now in (100.0, 130.0, 160.0, 500.0)]
        assert waits == [60, 30, 0, 0]

    def test_each_kill_doubles_the_wait_and_a_usual_exit_ends_it(self) -> None:
        store = FootprintStore(None)
        store.record_activation(self.VERSION, 1.0)
        store.seconds_until_trial(self.VERSION, time.monotonic())
        waits = []
        for _ in range(9):
            store.record_oom_kill(self.VERSION, 1, 1)
            waits.append(round(store.seconds_until_trial(self.VERSION, time.monotonic())))
        assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
        store.record_typical_exit(self.VERSION, peak=1, steady=1)
        assert store.seconds_until_trial(self.VERSION, time.monotonic()) <= 60

    def test_a_report_starts_no_wait(self) -> None:
        store = FootprintStore(None)
        store.record_usage(self.VERSION, peak=1, steady=1)
        assert store.seconds_until_trial(self.VERSION, 100.0, starts_wait=False) == 60
        assert [store.seconds_until_trial(self.VERSION, now) for now in (500.0, 530.0)] == [60, 30]

    def test_they_are_discarded_with_the_footprint(self) -> None:
        store = FootprintStore(None)
        store.record_usage(self.VERSION, peak=1, steady=1)
        store.seconds_until_trial(self.VERSION, 100.0)
        for number in range(MAX_RECORDS):
            store.record_usage(("puppet", "puppet", f"2.{number}"), peak=1, steady=1)
        store.snapshot()
        assert store.get(self.VERSION) is None
        store.record_usage(self.VERSION, peak=1, steady=1)
        assert store.seconds_until_trial(self.VERSION, 500.0) == 60

    def test_forget_discards_all_versions_of_one_handler(self) -> None:
        store = FootprintStore(None)
        for version in ("1.0", "2.0"):
            store.record_usage(("puppet", "puppet", version), peak=1, steady=1)
        store.record_usage(("other", "puppet", "1.0"), peak=1, steady=1)
        store.has_changes = False
        assert (store.forget("puppet"), store.forget("puppet")) == (2, 0)
        assert store.has_changes
        assert store.get(("other", "puppet", "1.0")) is not None
        assert store.get(self.VERSION) is None
