"""Messages between the host and its fork server, one per packet."""

from __future__ import annotations

import msgspec

MAX_MESSAGE = 64 * 1024
"""Longest message in bytes."""


class Fork(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Host to fork server, with two descriptors (channel, output): fork a worker."""

    number: int


class Signal(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Host to fork server: send a signal to a worker's process group."""

    number: int
    signal: int


class Forked(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Fork server to host: the worker runs with this process ID."""

    number: int
    pid: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Fork server to host: the system refused the fork."""

    number: int
    errno: int


class Exited(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Fork server to host: the worker is reaped, and its process group is killed."""

    number: int
    code: int | None
    signal: int | None
    maxrss: int
    """Peak of its resident memory in bytes."""


requests = msgspec.msgpack.Decoder(Fork | Signal)
notices = msgspec.msgpack.Decoder(Forked | Refused | Exited)
encode = msgspec.msgpack.Encoder().encode
