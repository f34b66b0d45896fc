"""Frames between the host and one worker: encode and decode, without I/O.

A frame on the wire is a length (4 bytes, big endian, the length of what
follows) and a msgpack array whose first item is the frame's tag. Both ends use
this module; neither reads nor writes a socket here, so that the protocol is
tested without one.

Payloads (request bodies, pieces, answers) are JSON documents as bytes: what the
client sent reaches the operation without being decoded in the host, and what
the operation answers reaches the client the same way.

Dispatches are numbered by the host, from 1, and no number is used twice in the
life of a worker. A late answer can therefore never reach another dispatch.

What a handler dispatches to other handlers (``Dispatch``) is numbered by its worker, by
the same rule. Its answer comes with the frames that answers always have (``Piece``, ``End``,
``Error``), and is taken with ``Cancel`` and ``Credit``, each the other way round.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

PROTOCOL_VERSION = 2
"""Checked when a worker reports ready: a worker of an environment of its own may be older."""

HEADER = struct.Struct(">I")
FRAGMENT = 64 * 1024
"""Bytes at which a worker cuts an answer that is no stream, so that no answer needs a frame of its size."""

DEFAULT_MAX_FRAME = 1024 * 1024
"""Longest frame a worker may send, in bytes. One streamed piece has to fit."""

Frame = TypeVar("Frame")


class ProtocolError(Exception):
    """The other end sent what is not a frame, or a frame that is too long."""


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker needs to know to load its handler."""

    handler: str
    entry_point: str
    """``module:attribute`` as the distribution's metadata has it."""
    distribution: str
    version: str
    paths: tuple[str, ...] = ()
    """Directories to add to the import path (as site directories), first one first."""
    config: dict[str, Any] = {}
    """The handler's own configuration, checked against its manifest where it has one."""
    secrets: dict[str, str] = {}
    """Only those that the handler declares. Never logged; see ``__repr__``."""
    environment: dict[str, str] = {}
    """The whole environment of the worker, secrets not included."""
    data_dir: str | None = None
    log_level: int = 20
    """The least level, as ``logging`` numbers them, of what is sent to the host's log."""
    memory_hard_limit: int | None = None
    """Bytes of data that the process may have (``RLIMIT_DATA``)."""
    oom_score_adj: int = 500
    """Added to what the kernel reckons, so that it takes the worker before the host."""
    max_frame: int = DEFAULT_MAX_FRAME

    def __repr__(self) -> str:
        return f"WorkerSpec(handler={self.handler!r}, entry_point={self.entry_point!r}, secrets=<{len(self.secrets)}>)"


class OperationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a ready worker tells of one operation."""

    name: str
    summary: str = ""
    streams: bool = False
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None


class _Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all frames: arrays, so that field names do not travel."""


class Start(_Frame, frozen=True, tag=1):
    """Host to worker, first and once: load this handler."""

    protocol: int
    generation: int
    spec: WorkerSpec


class Call(_Frame, frozen=True, tag=2):
    """Host to worker: run an operation."""

    number: int
    operation: str
    body: bytes
    streamed: bool
    """Whether the client wants the pieces one by one."""
    window: int
    """Bytes of pieces that the worker may send before it is given credit."""
    timeout: float | None
    """Seconds that the dispatch has left."""
    request_id: str
    traceparent: str | None = None
    """The trace that the dispatch is a part of (W3C Trace Context); None: it is not traced."""


class Cancel(_Frame, frozen=True, tag=3):
    """To who answers: nobody waits for this dispatch any more."""

    number: int


class Credit(_Frame, frozen=True, tag=4):
    """To who answers: so many bytes of this dispatch were taken."""

    number: int
    amount: int


class Ping(_Frame, frozen=True, tag=5):
    """Host to worker: heartbeat."""

    sequence: int


class Stop(_Frame, frozen=True, tag=6):
    """Host to worker: deactivate and exit within ``grace`` seconds; no call follows."""

    grace: float


class Health(_Frame, frozen=True, tag=7):
    """Host to worker: run the health hook; answered as a call is, by ``End`` or ``Error``."""

    number: int
    request_id: str


class Ready(_Frame, frozen=True, tag=16):
    """Worker to host: the handler is activated."""

    protocol: int
    operations: tuple[OperationInfo, ...]
    import_seconds: float
    activate_seconds: float


class Failed(_Frame, frozen=True, tag=17):
    """Worker to host: the handler could not be activated; the worker exits."""

    reason: str
    """One sentence for the client and the list."""
    trace: str
    """The plugin author's traceback, for the log."""
    out_of_memory: bool = False
    """It could get no more memory."""


class Chunk(_Frame, frozen=True, tag=18):
    """To who asked: one item of a stream, or one fragment of an answer."""

    number: int
    data: bytes


class End(_Frame, frozen=True, tag=19):
    """To who asked: the dispatch is done. ``data`` is the last fragment of an answer; a stream has none."""

    number: int
    data: bytes | None


class Error(_Frame, frozen=True, tag=20):
    """To who asked: the dispatch failed. ``code`` is one of ``handler_host.plugin.errors.BY_CODE``."""

    number: int
    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None


class Pong(_Frame, frozen=True, tag=21):
    """Worker to host: heartbeat, with the worker's own count of dispatches that it runs."""

    sequence: int
    running: int


class Log(_Frame, frozen=True, tag=22):
    """Worker to host: a log record of the handler."""

    level: int
    logger: str
    message: str
    request_id: str | None = None


class Dispatch(_Frame, frozen=True, tag=23):
    """Worker to host: run an operation of another handler."""

    number: int
    """The worker's own."""
    parent: int | None
    """The call that asks, whose deadline and end are this one's too; None: no call, but the handler itself."""
    handler: str
    operation: str
    body: bytes
    streamed: bool
    window: int
    """Bytes of the answer that the host may send before it is given credit."""
    timeout: float | None
    """Seconds that the handler gives it; never more than its parent has left."""


HostFrame = Start | Call | Cancel | Credit | Ping | Stop | Health | Chunk | End | Error
WorkerFrame = Ready | Failed | Chunk | End | Error | Pong | Log | Dispatch | Cancel | Credit

_encoder = msgspec.msgpack.Encoder()


def encode(frame: HostFrame | WorkerFrame) -> bytes:
    """Return ``frame`` as bytes for the wire, its length first."""
    body = _encoder.encode(frame)
    return HEADER.pack(len(body)) + body


class Decoder(Generic[Frame]):
    """Cuts a byte stream into frames of one direction.

    ``max_frame`` is the longest frame accepted, in bytes, without its length.
    After a :class:`ProtocolError` the decoder is of no further use: where one
    frame ended is lost, and the worker has to go.
    """

    def __init__(self, frames: Any, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        self._decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(frames)
        self._max_frame = max_frame
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Yield each frame that ``data`` completes.

        Raises :class:`ProtocolError` for a frame that is too long or malformed.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= HEADER.size:
                (length,) = HEADER.unpack_from(buffer, start)
                if length > self._max_frame:
                    raise ProtocolError(f"a frame of {length} bytes, where at most {self._max_frame} are allowed")
                end = start + HEADER.size + length
                if len(buffer) < end:
                    break
                body = bytes(memoryview(buffer)[start + HEADER.size : end])
                start = end
                try:
                    yield self._decoder.decode(body)
                except msgspec.MsgspecError as error:
                    raise ProtocolError(f"a malformed frame: {error}") from error
        finally:
            del buffer[:start]

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet: more than 0 at the end of the stream means truncated."""
        return len(self._buffer)


def worker_frames(max_frame: int = DEFAULT_MAX_FRAME) -> Decoder[WorkerFrame]:
    """Return the decoder for the host's end."""
    return Decoder(WorkerFrame, max_frame)


def host_frames(max_frame: int) -> Decoder[HostFrame]:
    """Return the decoder for the worker's end."""
    return Decoder(HostFrame, max_frame)
