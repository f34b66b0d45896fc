"""Hostile workers: frames that break the rules end that worker only, and files in its directory do no harm."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler_host.channel import frames
from handler_host.channel.log_limiter import RECORDS_PER_S, LogLimiter
from handler_host.channel.log_pacer import RECORDS_PER_TURN
from handler_host.channel.timeouts import CallTimeouts
from handler_host.lifecycle.operation_registry import limit_schema
from handler_host.lifecycle.pending_work import _read_notes
from handler_host.lifecycle.reports import HandlerStatus, OperationReport
from handler_host.plugin.errors import ActivationFailed, HostError
from handler_host.routes.openapi import document
from tests.support import until, within
from tests.unit.channel.test_channel import SPEC, channel

NO_LIMITS = CallTimeouts(total=None, first_byte=None, gap=None)


def frame_of(content: object) -> bytes:
    body = msgspec.msgpack.encode(content)
    return struct.pack(">I", len(body)) + body


def documented(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return an operation with this schema of requests as /openapi.json has it."""
    status = HandlerStatus(
        name="h",
        state="idle",
        reason=None,
        distribution="d",
        version="1",
        plugin=None,
        title="",
        description="",
        models={},
        default_model=None,
        operations=[OperationReport(name="x", input_schema=schema)],
        isolation="process",
        python=None,
        pin=False,
    )
    encoded = msgspec.json.encode(document([status], keys=False))
    operation: dict[str, Any] = msgspec.json.decode(encoded)["paths"]["/v1/handlers/h/x"]["post"]
    return operation


async def test_a_worker_that_ignores_its_window_is_ended() -> None:
    """The host keeps a window and one frame of a stream that nobody reads, not gigabytes."""
    async with channel(window=100_000, max_frame=50_000) as (opened, peer):
        call = opened.call("stream", b"{}", streamed=True, request_id="r", timeouts=NO_LIMITS)
        number = await peer.receive_number()
        for _ in range(3):
            await peer.send(frames.Chunk(number, b"x" * 49_000))
        assert not opened.closed.done()
        await peer.send(frames.Chunk(number, b"x" * 49_000))
        reason = await within(opened.closed)
        assert reason.broken
        assert "in a window of 100000" in reason.text
        call.cancel()


async def test_a_long_log_line_fits_into_the_shortest_frame() -> None:
    """``workers.max_frame`` is for chunks: a worker that logs a long line must not be ended for it."""
    async with channel(max_frame=4096) as (opened, peer):
        call = opened.call("echo", b"{}", streamed=False, request_id="r", timeouts=NO_LIMITS)
        number = await peer.receive_number()
        await peer.send(frames.Log(20, "engine", "é" * 16 * 1024), frames.End(number, b"{}"))
        assert await within(call.read_response()) == b"{}"


async def test_empty_chunks_count_as_well() -> None:
    """A flood of empty chunks fills memory, too."""
    async with channel(window=1_000, max_frame=1_000) as (opened, peer):
        call = opened.call("stream", b"{}", streamed=True, request_id="r", timeouts=NO_LIMITS)
        number = await peer.receive_number()
        await peer.send(*[frames.Chunk(number, b"")] * 2_001)
        assert (await within(opened.closed)).broken
        call.cancel()


@pytest.mark.parametrize(
    "content",
    [
        [22, 20, b"\xff", "message", None],
        [16, 2, [{"name": "x", "input_schema": 1}], 0.0, 0.0],
        [99, 1],
        [18, 2**70, b""],
        [],
        {"a": 1},
        None,
    ],
)
async def test_a_malformed_frame_ends_the_worker(content: object) -> None:
    """With its reason, and without an exception in the loop."""
    try:
        data = frame_of(content)
    except OverflowError:
        data = struct.pack(">I", 12) + b"\x93\x12\xcf" + b"\xff" * 8 + b"\xc0"
    async with channel() as (opened, peer):
        await peer.send_bytes(data)
        assert (await within(opened.closed)).broken


@pytest.mark.parametrize(("levels", "is_kept"), [(40, True), (400, False)])
async def test_a_deep_schema_of_a_worker_stops_no_document(levels: int, is_kept: bool) -> None:
    """It is left out, and the list of handlers and /openapi.json stay as they are."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    sent = frames.Ready(1, (frames.OperationInfo(name="x", input_schema=schema),), 0.0, 0.0)
    (ready,) = frames.worker_frame_decoder(100_000).feed(frame_of(sent))
    assert isinstance(ready, frames.Ready)
    kept = limit_schema(ready.operations[0].input_schema)
    assert (kept is not None) is is_kept
    assert documented(kept)


@pytest.mark.parametrize(
    "schema", [{"$defs": ["a"]}, {"$defs": None}, {"$defs": {"a": 1}}, {"$ref": 3}, {"anyOf": 1}, {"mapping": 1}]
)
def test_an_invalid_schema_of_a_worker_stops_no_document(schema: dict[str, Any]) -> None:
    assert documented(schema)


def test_many_references_to_one_definition_block_no_document() -> None:
    choices = {f"L{n}": {"anyOf": [{"$ref": f"#/$defs/L{n + 1}"}] * 300} for n in range(3)}
    schema = {"$ref": "#/$defs/L0", "$defs": {**choices, "L3": {"required": ["a"]}}}
    assert documented(schema)["requestBody"]["required"], "27 million ways lead to L3"


async def test_text_that_is_not_utf_8_ends_the_worker() -> None:
    """A decoding error is a violation like any other."""
    async with channel() as (opened, peer):
        body = b"\x95\x16\x14\xa2\xff\xfe\xa1x\xc0"
        await peer.send_bytes(struct.pack(">I", len(body)) + body)
        assert "malformed" in (await within(opened.closed)).text


@given(data=st.binary(max_size=200), tag=st.integers(0, 30))
@settings(max_examples=150, suppress_health_check=[HealthCheck.differing_executors])
def test_no_frame_raises_anything_but_a_protocol_error(data: bytes, tag: int) -> None:
    """Random bodies, each with the start of a frame, are decoded or refused."""
    body = b"\x95" + bytes([tag]) + data
    decoder = frames.worker_frame_decoder(1000)
    try:
        for _ in decoder.feed(struct.pack(">I", len(body)) + body):
            pass
    except frames.ProtocolError:
        pass


CORPUS: tuple[frames.WorkerFrame, ...] = (
    frames.Ready(frames.PROTOCOL_VERSION, (frames.OperationInfo(name="x"),), 0.1, 0.1, ("p",), ("files",)),
    frames.Failed("reason", "trace", True),
    frames.Chunk(1, b"{}"),
    frames.End(1, b"{}"),
    frames.Error(1, "upstream_error", "text", "field", 1.0, "cause"),
    frames.Pong(1, 1, 0.1, 0.1, frames.WorkerMemory(1, 1, 1, 1)),
    frames.Log(20, "plugin", "text", "r"),
    frames.Dispatch(1, 1, "other", "x", b"{}", True, 100, 1.0),
    frames.Cancel(1),
    frames.Credit(1, 5),
)
hostile_fields: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2, 99, 2**63 - 1, -(2**63), 2**64 - 1, 1e308, float("nan"), float("inf"), "", "\0", "\u202e",
     "x" * 5_000, b"", b"\xff" * 5_000, [], {}, [[]] * 50, {"type": {"$ref": "#"}}]
)  # fmt: skip


@st.composite
def hostile_frames(draw: st.DrawFn) -> bytes:
    """Return valid frames of a worker, of which some have other values in their fields, and some other bytes."""
    sent = bytearray()
    for frame in draw(st.lists(st.sampled_from(CORPUS), min_size=1, max_size=5)):
        content = msgspec.msgpack.decode(frames.encode(frame)[4:])
        for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=2)):
            content[place] = draw(hostile_fields)
        sent += frame_of(content)
    for place in draw(st.lists(st.integers(0, len(sent) - 1), max_size=2)):
        sent[place] = draw(st.integers(0, 255))
    return bytes(sent)


@given(data=hostile_frames())
@settings(max_examples=150, deadline=None)
def test_hostile_frames_end_their_worker_at_most(data: bytes) -> None:
    """No exception reaches the loop, each call ends with a response or a known error, and others go on."""

    async def scenario() -> list[str]:
        failures: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, details: failures.append(repr(details)))
        async with channel(window=10_000, max_frame=10_000) as (opened, peer), channel() as (other, other_peer):
            calls = [opened.call("x", b"{}", streamed=False, request_id="r", timeouts=NO_LIMITS) for _ in range(3)]
            other_call = other.call("x", b"{}", streamed=False, request_id="r", timeouts=NO_LIMITS)
            await peer.send_bytes(data)
            peer.close()
            await within(opened.closed)
            opened.close()  # as the worker's supervisor does
            for call in calls:
                with contextlib.suppress(HostError):
                    await within(call.read_response())
            await other_peer.send(frames.End(await other_peer.receive_number(), b"[]"))
            assert await within(other_call.read_response()) == b"[]"
        return failures

    assert asyncio.run(scenario()) == []


@pytest.mark.parametrize("retry_after", [float("inf"), float("nan"), -5.0, 1e308])
async def test_a_time_that_nobody_can_wait_is_dropped(retry_after: float) -> None:
    """The error itself reaches the client."""
    async with channel() as (opened, peer):
        call = opened.call("echo", b"{}", streamed=False, request_id="r", timeouts=NO_LIMITS)
        number = await peer.receive_number()
        await peer.send(frames.Error(number, "rate_limited", "slow down", None, retry_after))
        with pytest.raises(HostError, match="slow down") as refusal:
            await within(call.read_response())
        assert refusal.value.retry_after is None


def test_log_records_of_a_worker_are_limited_by_the_host() -> None:
    """By number, by bytes, and each by its length; a note tells how many were dropped."""
    limiter = LogLimiter()
    record = frames.Log(20, "plugin", "x" * 900_000)
    logged = [kept for _ in range(5_000) for kept in limiter.admit(record, 1.0)]
    assert 10 <= len(logged) <= RECORDS_PER_S
    assert max(len(kept.message) for kept in logged) < 70_000
    assert limiter.is_flooding
    note, _ = limiter.admit(frames.Log(20, "plugin", "hello"), 2.0)
    assert f"{5_000 - len(logged)} log records dropped" in note.message


def test_only_the_first_lazy_import_failure_is_over_the_limit() -> None:
    """It makes the next activation eager; the others would wait in the host without a bound."""
    limiter = LogLimiter()
    for _ in range(RECORDS_PER_S):
        limiter.admit(frames.Log(20, "plugin", "x"), 1.0)
    failure = frames.Log(30, "lean", "failed", is_lazy_import_failure=True)
    assert [limiter.admit(failure, 1.0) for _ in range(3)] == [[failure], [], []]


async def test_a_flood_of_log_records_takes_several_turns_of_the_loop() -> None:
    """All are logged, in their order, and others have their turn in between."""
    turn = 0
    records: list[tuple[int, str]] = []

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async with channel(on_log=lambda record: records.append((turn, record.message))) as (_, peer):
        counting = asyncio.create_task(count_turns())
        await peer.send(*(frames.Log(20, "plugin", f"{number}") for number in range(500)))
        await until(lambda: len(records) == 500)
        counting.cancel()
    assert [message for _, message in records] == [f"{number}" for number in range(500)]
    assert max(Counter(number for number, _ in records).values()) <= RECORDS_PER_TURN


async def test_only_the_first_failure_of_an_activation_is_logged() -> None:
    """Its trace is beyond the limit on log records."""
    records: list[str] = []
    async with channel(on_log=lambda record: records.append(record.message)) as (opened, peer):
        starting = asyncio.ensure_future(opened.start(SPEC, 30.0))
        await peer.receive()
        await peer.send(*(frames.Failed("no luck", f"trace {number}") for number in range(3)))
        with pytest.raises(ActivationFailed):
            await within(starting)
        await peer.send(frames.Log(20, "plugin", "last"))
        await until(lambda: "last" in records)
    assert records == ["trace 0", "last"]


def test_what_a_plugin_puts_in_place_of_its_note_does_no_harm(tmp_path: Path) -> None:
    """A FIFO, links, a directory, a huge file and odd content are left out, without waiting."""
    secret = tmp_path / "secret"
    secret.write_text('{"count": 7, "due": 0}')
    root = tmp_path / "data"
    for name in ("fifo", "link", "zero", "directory", "big", "utf8", "deep", "good"):
        (root / name).mkdir(parents=True)
    os.mkfifo(root / "fifo/.pending")
    (root / "link/.pending").symlink_to(secret)
    (root / "zero/.pending").symlink_to("/dev/zero")
    (root / "directory/.pending").mkdir()
    with (root / "big/.pending").open("wb") as file:
        file.truncate(800_000_000)
    (root / "utf8/.pending").write_bytes(b'{"count":1,"due":1,"x":"\xff"}')
    (root / "deep/.pending").write_bytes(b'{"count":1,"due":1,"x":' + b"[" * 3_000)
    (root / "good/.pending").write_text('{"count": 2, "due": 0}')
    notes = asyncio.run(asyncio.wait_for(asyncio.to_thread(_read_notes, root), 5))
    assert notes["good"].count == 2
    assert set(notes) <= {"good", "utf8"}  # msgspec does not decode the text of unknown fields
