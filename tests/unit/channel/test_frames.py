"""Frames: decoded whole however the stream is cut; anything else is a protocol error."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.channel import frames

NUMBERS = st.integers(min_value=0, max_value=2**53)
TEXTS = st.text(max_size=40)
HOST_FRAMES = st.one_of(
    st.builds(
        frames.Call,
        NUMBERS,
        TEXTS,
        st.binary(max_size=300),
        st.booleans(),
        NUMBERS,
        st.none() | st.floats(min_value=0, max_value=1e6),
        TEXTS,
    ),
    st.builds(frames.Cancel, NUMBERS),
    st.builds(frames.Credit, NUMBERS, NUMBERS),
    st.builds(frames.Ping, NUMBERS),
    st.builds(frames.Stop, st.floats(min_value=0, max_value=1e6)),
    st.builds(frames.Chunk, NUMBERS, st.binary(max_size=300)),
    st.builds(frames.End, NUMBERS, st.none() | st.binary(max_size=300)),
    st.builds(frames.Error, NUMBERS, TEXTS, TEXTS, st.none() | TEXTS, st.none() | st.floats(0, 1e6)),
)
WORKER_FRAMES = st.one_of(
    st.builds(frames.Chunk, NUMBERS, st.binary(max_size=300)),
    st.builds(frames.End, NUMBERS, st.none() | st.binary(max_size=300)),
    st.builds(frames.Error, NUMBERS, TEXTS, TEXTS, st.none() | TEXTS, st.none() | st.floats(0, 1e6)),
    st.builds(frames.Pong, NUMBERS, NUMBERS, st.floats(0, 1e9), st.floats(0, 1e9)),
    st.builds(frames.Log, NUMBERS, TEXTS, TEXTS, st.none() | TEXTS),
    st.builds(
        frames.Dispatch,
        NUMBERS,
        st.none() | NUMBERS,
        TEXTS,
        TEXTS,
        st.binary(max_size=300),
        st.booleans(),
        NUMBERS,
        st.none() | st.floats(min_value=0, max_value=1e6),
    ),
    st.builds(frames.Cancel, NUMBERS),
    st.builds(frames.Credit, NUMBERS, NUMBERS),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut ``data`` at ``places``, modulo its length."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


PLACES = st.lists(st.integers(min_value=0, max_value=10_000), max_size=12)


class TestDecoder:
    @given(st.lists(WORKER_FRAMES, max_size=8), PLACES)
    def test_worker_frames(self, sent: list[frames.WorkerFrame], places: list[int]) -> None:
        decoder = frames.worker_frame_decoder()
        received = [frame for part in cut(b"".join(map(frames.encode, sent)), places) for frame in decoder.feed(part)]
        assert received == sent
        assert decoder.pending == 0

    @given(st.lists(HOST_FRAMES, max_size=8), PLACES)
    def test_host_frames(self, sent: list[frames.HostFrame], places: list[int]) -> None:
        decoder = frames.host_frame_decoder(2**20)
        received = [frame for part in cut(b"".join(map(frames.encode, sent)), places) for frame in decoder.feed(part)]
        assert received == sent

    @given(st.binary(max_size=400))
    def test_any_bytes(self, data: bytes) -> None:
        decoder = frames.worker_frame_decoder(max_frame=256)
        with suppress(frames.ProtocolError):
            for frame in decoder.feed(data):
                assert isinstance(frame, frames.WorkerFrame)

    @given(WORKER_FRAMES, st.integers(min_value=1, max_value=10_000))
    def test_truncated_frame_stays_pending(self, frame: frames.WorkerFrame, at: int) -> None:
        data = frames.encode(frame)
        decoder = frames.worker_frame_decoder()
        start = data[: at % len(data)]
        assert list(decoder.feed(start)) == []
        assert decoder.pending == len(start)

    def test_long_frame_is_refused_by_its_length(self) -> None:
        decoder = frames.worker_frame_decoder(max_frame=100)
        with pytest.raises(frames.ProtocolError, match="frame of 101 bytes is longer than the limit of 100"):
            list(decoder.feed(frames.HEADER.pack(101)))

    def test_frames_before_a_malformed_one(self) -> None:
        good = frames.Pong(1, 2)
        decoded = frames.worker_frame_decoder().feed(frames.encode(good) + frames.HEADER.pack(1) + b"\xc1")
        assert next(decoded) == good
        with pytest.raises(frames.ProtocolError, match="malformed"):
            next(decoded)

    def test_frame_of_the_other_direction(self) -> None:
        with pytest.raises(frames.ProtocolError, match="malformed"):
            list(frames.worker_frame_decoder().feed(frames.encode(frames.Ping(1))))


def test_repr_of_a_spec_has_no_secret() -> None:
    spec = frames.WorkerSpec(
        handler="x", entry_point="x:X", distribution="x", version="1", secrets={"KEY": "very-secret"}
    )
    assert "very-secret" not in repr(spec)
    assert "very-secret" not in repr(frames.Start(1, 1, spec))
    assert b"very-secret" in msgspec.msgpack.encode(spec)
