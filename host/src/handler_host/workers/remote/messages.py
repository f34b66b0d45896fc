"""Messages between the host and the driver of an engine, one per packet."""

from __future__ import annotations

import msgspec

from handler_host.memory.place import PlaceReport

MAX_MESSAGE = 128 * 1024
"""Longest message in bytes."""


class Configure(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Host to driver, once, as the first message: load this launcher and connect."""

    launcher: str
    options: bytes
    """The options of ``[launchers.NAME]`` as JSON."""
    tls: bool


class Launch(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Host to driver: start a worker."""

    number: int
    handler: str
    place: str
    memory: int
    resources: dict[str, float]
    connection: bytes


class Kill(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Host to driver: kill a worker."""

    number: int


class Connected(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Driver to host: the engine is connected."""

    address: str
    """Address of this machine that workers can reach."""
    certificate: bytes
    """Certificate and private key of the host's listener as PEM, made for this driver; empty without TLS."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Driver to host, as its last message: the engine cannot be used, or is gone."""

    text: str
    is_final: bool


class Places(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Driver to host: the machines; ``is_last`` ends a list that is longer than a message."""

    places: tuple[PlaceReport, ...]
    is_last: bool


class Launched(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Driver to host: the worker is started."""

    number: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Driver to host: the worker cannot be started."""

    number: int
    text: str
    is_final: bool


class Exited(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Driver to host: the worker has exited."""

    number: int
    code: int | None
    signal: int | None
    maxrss: int | None
    lost: str | None
    """The known facts if its status is unknown."""


requests = msgspec.msgpack.Decoder(Configure | Launch | Kill)
notices = msgspec.msgpack.Decoder(Connected | Failed | Places | Launched | Refused | Exited)
encode = msgspec.msgpack.Encoder().encode
