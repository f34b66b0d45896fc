"""What the host and its fork server say to each other, one message a packet."""

from __future__ import annotations

import msgspec

MAX_MESSAGE = 64 * 1024


class Fork(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Host to fork server, with two descriptors (socket, output): fork a worker."""

    number: int


class Signal(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Host to fork server: send a signal to a worker's process group."""

    number: int
    signal: int


class Forked(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Fork server to host: the worker has this process number."""

    number: int
    pid: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Fork server to host: the system refused the fork."""

    number: int
    errno: int


class Exited(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Fork server to host: the worker was reaped, and its group is killed."""

    number: int
    code: int | None
    signal: int | None
    maxrss: int
    """Bytes."""


requests = msgspec.msgpack.Decoder(Fork | Signal)
notices = msgspec.msgpack.Decoder(Forked | Refused | Exited)
encode = msgspec.msgpack.Encoder().encode
