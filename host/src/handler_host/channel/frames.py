"""Encode and decode the frames between the host and one worker, without I/O.

A frame on the wire is a length (4 bytes, big endian, the length of the rest) and a msgpack array whose
first item is the frame's tag. Both ends use this module. It does not read or write a socket, so the
protocol is tested without one.

Payloads (request bodies, chunks, responses) are JSON documents as bytes: the client's body reaches the
operation without being decoded in the host, and the operation's response reaches the client the same way.

The host numbers its dispatches from 1 and never uses a number twice in the life of a worker. A late
response can therefore never reach another dispatch.

A handler's dispatches to other handlers (``Dispatch``) are numbered by its worker, by the same rule. The
frames of a response are the same in both directions:

============ ================================= ==================================
dispatch of  starts with                       its ``Chunk``, ``End``, ``Error``
============ ================================= ==================================
a client     ``Call``, to the worker           to the host
a handler    ``Dispatch``, to the host         to the worker
============ ================================= ==================================

``Cancel`` and ``Credit`` travel with the request, against the response.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from handler_host._internal.text import repair_texts
from handler_host.plugin.native_response import NativeResponse

PROTOCOL_VERSION = 2
"""Checked when a worker reports ready: a worker in its own Python environment may have an older version."""

HEADER = struct.Struct(">I")
FRAGMENT = 64 * 1024
"""Bytes of one fragment: a response that is not a stream is cut, so its size is not limited by a frame's."""

DEFAULT_MAX_FRAME = 1024 * 1024
"""Longest frame that a worker may send, in bytes. One chunk of a stream must fit."""

Frame = TypeVar("Frame")

Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**50)]
"""A number of bytes that a machine can have: a worker's own figures are checked."""


class ProtocolError(Exception):
    """The other end sent a malformed frame, or a frame that is too long."""


class LeanImports(msgspec.Struct, frozen=True, kw_only=True):
    """Packages whose imports the worker makes lazy before it imports the handler (``handler_host.lean``)."""

    requirements: tuple[str, ...]
    """Checked versions, as ``DISTRIBUTION==VERSION`` or ``DISTRIBUTION==VERSION: PACKAGE, PACKAGE``."""
    eager: tuple[str, ...] = ()
    """Modules whose import is not deferred."""
    any_version: bool = False
    """Whether versions that were not checked are lazy too."""
    cache: str | None = None
    """Directory of the compiled code; None: the default of the worker's interpreter."""
    fallback_cache: str | None = None
    """Another directory, for what is not compiled in the first."""


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Settings with which a worker loads its handler."""

    handler: str
    entry_point: str
    """``module:attribute`` from the distribution's metadata."""
    distribution: str
    version: str
    paths: tuple[str, ...] = ()
    """Directories to add to the import path as site directories, in the order of the import path."""
    config: dict[str, Any] = {}
    """The handler's own configuration, checked against its manifest if it has one."""
    secrets: dict[str, str] = {}
    """The secrets that the handler declares. Never logged; see ``__repr__``."""
    environment: dict[str, str] = {}
    """The complete environment of the worker, without secrets."""
    data_dir: str | None = None
    log_level: int = 20
    """Lowest level, as a number of ``logging``, of the records that are sent to the host's log."""
    memory_hard_limit: int | None = None
    """Limit of the process's data in bytes (``RLIMIT_DATA``)."""
    oom_score_adj: int = 500
    """Added to the kernel's own score, so that it kills the worker before the host."""
    max_frame: int = DEFAULT_MAX_FRAME
    lean: LeanImports | None = None
    """None: all imports are eager."""
    confine: Literal["auto", "off", "strict"] = "auto"
    """Whether the worker confines itself; ``strict``: it does not start where the kernel cannot."""
    read_paths: tuple[str, ...] = ()
    """Files and directories that a confined worker may read, besides those of Python and of its plugin."""
    write_paths: tuple[str, ...] = ()
    """Files and directories that a confined worker may read and write, besides its data and temporary files."""
    hang_after: float | None = None
    """Seconds without a frame of the host, from the first heartbeat on, after which a remote worker ends itself.

    None on the host's machine: there a worker sees the end of its host at once, and outlives a host that is stopped.
    """
    is_remote: bool = False
    """Whether the worker runs on another machine: it keeps that machine's environment, and reports its own memory."""

    def __repr__(self) -> str:
        return f"WorkerSpec(handler={self.handler!r}, entry_point={self.entry_point!r}, secrets=<{len(self.secrets)}>)"


class OperationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of a ready worker."""

    name: str
    summary: str = ""
    streams: bool = False
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None


class _Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all frames: arrays, as field names would make every frame longer."""


class Start(_Frame, frozen=True, tag=1):
    """Host to worker, once, as the first frame: load this handler."""

    protocol: int
    generation: int
    spec: WorkerSpec


class Call(_Frame, frozen=True, tag=2):
    """Host to worker: run an operation."""

    number: int
    operation: str
    body: bytes
    streamed: bool
    """Whether the client wants a stream of chunks."""
    window: int
    """Bytes that the worker may send before it needs credit."""
    timeout: float | None
    """Seconds that the dispatch has left; None if unlimited."""
    request_id: str
    traceparent: str | None = None
    """Trace of the dispatch (W3C Trace Context); None if it is not traced."""


class Cancel(_Frame, frozen=True, tag=3):
    """To the end that responds: cancel this dispatch."""

    number: int


class Credit(_Frame, frozen=True, tag=4):
    """To the end that responds: ``amount`` bytes of this dispatch were consumed."""

    number: int
    amount: int


class Ping(_Frame, frozen=True, tag=5):
    """Host to worker: heartbeat."""

    sequence: int


class Stop(_Frame, frozen=True, tag=6):
    """Host to worker: deactivate and exit within ``grace`` seconds; no further call follows."""

    grace: float


class Health(_Frame, frozen=True, tag=7):
    """Host to worker: run the health hook; the response is ``End`` or ``Error``, as for a call."""

    number: int
    request_id: str


class Ready(_Frame, frozen=True, tag=16):
    """Worker to host: the handler is activated."""

    protocol: int
    operations: tuple[OperationInfo, ...]
    import_seconds: float
    activate_seconds: float
    uncompiled: tuple[str, ...] = ()
    """Packages that could be lean, but are not compiled."""
    confinement: tuple[str, ...] = ()
    """The measures of confinement that are in force."""


class Failed(_Frame, frozen=True, tag=17):
    """Worker to host: the handler could not be activated, and the worker exits."""

    reason: str
    """One sentence for the client and the list."""
    trace: str
    """The plugin author's traceback, for the log."""
    out_of_memory: bool = False
    """Activation could not get more memory."""
    out_of_resources: bool = False
    """The system refused the activation a thread, a process or a descriptor."""
    is_retryable: bool = True
    """Whether a later activation may succeed without a change by a person."""


class Chunk(_Frame, frozen=True, tag=18):
    """To the end that dispatched: one chunk of a stream, or one fragment of a response."""

    number: int
    data: bytes


class End(_Frame, frozen=True, tag=19):
    """To the end that dispatched: the dispatch is done. ``data`` is the last fragment; None for a stream."""

    number: int
    data: bytes | None


class Error(_Frame, frozen=True, tag=20):
    """To the end that dispatched: the dispatch failed. ``code`` is one of ``handler_host.plugin.errors.BY_CODE``."""

    number: int
    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None
    cause: str | None = None
    """What failed below, for operators only."""
    response: NativeResponse | None = None
    """The provider's response, for clients of a native operation."""


class WorkerMemory(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The memory of a worker on another machine, in bytes."""

    pss: Bytes
    uss: Bytes
    rss: Bytes
    peak: Bytes


class Pong(_Frame, frozen=True, tag=21):
    """Worker to host: response to a heartbeat, with the number of calls that the worker runs."""

    sequence: int
    running: int
    cpu_s: float = 0.0
    """Seconds of processor time that the worker's process has used, in all its threads."""
    at_s: float = 0.0
    """The worker's monotonic clock at that moment: the difference of two pongs gives its share of a processor."""
    memory: WorkerMemory | None = None
    """Only from a worker on another machine."""


class Log(_Frame, frozen=True, tag=22):
    """Worker to host: a log record of the handler."""

    level: int
    logger: str
    message: str
    request_id: str | None = None
    is_lazy_import_failure: bool = False
    """Whether an import that had been deferred failed: the next worker of this version must import eagerly."""


class Dispatch(_Frame, frozen=True, tag=23):
    """Worker to host: run an operation of another handler."""

    number: int
    """Given by the worker."""
    parent: int | None
    """Number of the call that dispatches, whose deadline and end apply; None outside a call."""
    handler: str
    operation: str
    body: bytes
    streamed: bool
    window: int
    """Bytes of the response that the host may send before it needs credit."""
    timeout: float | None
    """Time limit in seconds that the handler sets; the parent's remaining time applies as well."""
    fallback: bool = True
    """Whether the fallbacks of ``handler`` are tried if it fails."""


HostFrame = Start | Call | Cancel | Credit | Ping | Stop | Health | Chunk | End | Error
WorkerFrame = Ready | Failed | Chunk | End | Error | Pong | Log | Dispatch | Cancel | Credit

_encoder = msgspec.msgpack.Encoder()


def encode(frame: HostFrame | WorkerFrame) -> bytes:
    """Encode ``frame`` for the wire, with its length first; half a surrogate pair in a text becomes U+FFFD."""
    try:
        body = _encoder.encode(frame)
    except UnicodeEncodeError:
        # The text is a plugin's or a provider's, and the call must get a response.
        body = _encoder.encode(repair_texts(msgspec.to_builtins(frame, builtin_types=(bytes,))))
    return HEADER.pack(len(body)) + body


class Decoder(Generic[Frame]):
    """Decoder of a byte stream into the frames of one direction.

    ``max_frame`` is the longest accepted frame in bytes, without its length. Do not use a decoder after a
    :class:`ProtocolError`: the boundary of the next frame is unknown, so the worker must end.
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
                    raise ProtocolError(f"frame of {length} bytes is longer than the limit of {self._max_frame}")
                end = start + HEADER.size + length
                if len(buffer) < end:
                    break
                body = bytes(memoryview(buffer)[start + HEADER.size : end])
                start = end
                try:
                    yield self._decoder.decode(body)
                # ValueError: text that is not UTF-8; the others: numbers and nesting beyond Python's limits.
                except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
                    raise ProtocolError(f"malformed frame: {error}") from error
        finally:
            del buffer[:start]

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame; more than 0 at the end of the stream means that a frame was cut off."""
        return len(self._buffer)


def worker_frame_decoder(max_frame: int = DEFAULT_MAX_FRAME) -> Decoder[WorkerFrame]:
    """Return a decoder of a worker's frames, for the host's end."""
    return Decoder(WorkerFrame, max_frame)


def host_frame_decoder(max_frame: int) -> Decoder[HostFrame]:
    """Return a decoder of the host's frames, for the worker's end."""
    return Decoder(HostFrame, max_frame)
