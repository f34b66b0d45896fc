"""The frames: whatever is sent arrives, however it is cut; whatever is no frame is refused and nothing else."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.channel import wire

NUMBERS = st.integers(min_value=0, max_value=2**53)
TEXTS = st.text(max_size=40)
HOST_FRAMES = st.one_of(
    st.builds(
        wire.Call,
        NUMBERS,
        TEXTS,
        st.binary(max_size=300),
        st.booleans(),
        NUMBERS,
        st.none() | st.floats(min_value=0, max_value=1e6),
        TEXTS,
    ),
    st.builds(wire.Cancel, NUMBERS),
    st.builds(wire.Credit, NUMBERS, NUMBERS),
    st.builds(wire.Ping, NUMBERS),
    st.builds(wire.Stop, st.floats(min_value=0, max_value=1e6)),
    st.builds(wire.Piece, NUMBERS, st.binary(max_size=300)),
    st.builds(wire.End, NUMBERS, st.none() | st.binary(max_size=300)),
    st.builds(wire.Error, NUMBERS, TEXTS, TEXTS, st.none() | TEXTS, st.none() | st.floats(0, 1e6)),
)
WORKER_FRAMES = st.one_of(
    st.builds(wire.Piece, NUMBERS, st.binary(max_size=300)),
    st.builds(wire.End, NUMBERS, st.none() | st.binary(max_size=300)),
    st.builds(wire.Error, NUMBERS, TEXTS, TEXTS, st.none() | TEXTS, st.none() | st.floats(0, 1e6)),
    st.builds(wire.Pong, NUMBERS, NUMBERS),
    st.builds(wire.Log, NUMBERS, TEXTS, TEXTS, st.none() | TEXTS),
    st.builds(
        wire.Dispatch,
        NUMBERS,
        st.none() | NUMBERS,
        TEXTS,
        TEXTS,
        st.binary(max_size=300),
        st.booleans(),
        NUMBERS,
        st.none() | st.floats(min_value=0, max_value=1e6),
    ),
    st.builds(wire.Cancel, NUMBERS),
    st.builds(wire.Credit, NUMBERS, NUMBERS),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut ``data`` at places, taken modulo its length."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


@given(st.lists(WORKER_FRAMES, max_size=8), st.lists(st.integers(min_value=0, max_value=10_000), max_size=12))
def test_frames_of_a_worker_arrive_whole_however_the_stream_is_cut(
    frames: list[wire.WorkerFrame], places: list[int]
) -> None:
    decoder = wire.worker_frames()
    arrived = [frame for part in cut(b"".join(map(wire.encode, frames)), places) for frame in decoder.feed(part)]
    assert arrived == frames
    assert decoder.pending == 0


@given(st.lists(HOST_FRAMES, max_size=8), st.lists(st.integers(min_value=0, max_value=10_000), max_size=12))
def test_frames_of_the_host_arrive_whole_however_the_stream_is_cut(
    frames: list[wire.HostFrame], places: list[int]
) -> None:
    decoder = wire.host_frames(2**20)
    arrived = [frame for part in cut(b"".join(map(wire.encode, frames)), places) for frame in decoder.feed(part)]
    assert arrived == frames


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_a_protocol_error(data: bytes) -> None:
    decoder = wire.worker_frames(max_frame=256)
    with suppress(wire.ProtocolError):
        for frame in decoder.feed(data):
            assert isinstance(frame, wire.WorkerFrame)


@given(WORKER_FRAMES, st.integers(min_value=1, max_value=10_000))
def test_a_truncated_frame_stays_pending(frame: wire.WorkerFrame, at: int) -> None:
    data = wire.encode(frame)
    decoder = wire.worker_frames()
    start = data[: at % len(data)]
    assert list(decoder.feed(start)) == []
    assert decoder.pending == len(start)


def test_a_frame_that_is_too_long_is_refused_by_its_length_alone() -> None:
    decoder = wire.worker_frames(max_frame=100)
    with pytest.raises(wire.ProtocolError, match="a frame of 101 bytes, where at most 100"):
        list(decoder.feed(wire.HEADER.pack(101)))


def test_frames_before_a_malformed_one_are_delivered() -> None:
    good = wire.Pong(1, 2)
    arriving = wire.worker_frames().feed(wire.encode(good) + wire.HEADER.pack(1) + b"\xc1")
    assert next(arriving) == good
    with pytest.raises(wire.ProtocolError, match="malformed"):
        next(arriving)


def test_a_frame_of_the_other_direction_is_malformed() -> None:
    with pytest.raises(wire.ProtocolError, match="malformed"):
        list(wire.worker_frames().feed(wire.encode(wire.Ping(1))))


def test_the_representation_of_a_specification_shows_no_secret() -> None:
    spec = wire.WorkerSpec(
        handler="x", entry_point="x:X", distribution="x", version="1", secrets={"KEY": "very-secret"}
    )
    assert "very-secret" not in repr(spec)
    assert "very-secret" not in repr(wire.Start(1, 1, spec))
    assert b"very-secret" in msgspec.msgpack.encode(spec)
