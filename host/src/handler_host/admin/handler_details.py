"""What the dashboard shows of one handler beside its status: settings, past workers, latency, log.

It is imported when an operator opens the page of a handler.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from handler_host._internal.log import mask_secrets
from handler_host.config import POLICY_KEYS, Config, HandlerPolicy
from handler_host.config.masking import mask_handler, mask_value
from handler_host.config.toml_text import toml_value
from handler_host.config.values import keys_of
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.telemetry.counters import BOUNDS, Histogram

WORKER_EVENTS = frozenset({"activated", "failed", "unloaded"})


class Setting(msgspec.Struct, frozen=True):
    """One key in force, durations and sizes as the configuration writes them.

    ``source`` is its section of the configuration, or ``default``.
    """

    key: str
    value: Any
    source: str


class Latency(msgspec.Struct, frozen=True):
    """Durations since the host's start, in seconds; a quantile is the upper bound of its bucket, None beyond all."""

    count: int
    mean: float | None
    p50_at_most: float | None
    p99_at_most: float | None


class HandlerDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The details of one handler."""

    settings: list[Setting]
    workers: list[msgspec.Raw]
    """The events ``activated``, ``failed`` and ``unloaded`` of its workers, newest first, as far as they are kept."""
    first_chunk: Latency
    """From the start of a stream in the worker to its first chunk: mostly the provider's time."""
    response: Latency
    """In the worker, to the last byte."""
    failures: list[msgspec.Raw]
    log: list[str]
    """The last lines of its workers' log, oldest first."""


def handler_details(supervisor: Supervisor, name: str, failures: int) -> HandlerDetails:
    """Return the details of a handler, with its last ``failures``; raises ``UnknownHandler``."""
    supervisor.require_handler(name)
    telemetry = supervisor.telemetry
    counters = telemetry.counters.for_handler(name)
    events = [event.data for event in telemetry.events.past if event.handler == name and event.kind in WORKER_EVENTS]
    return HandlerDetails(
        settings=list(_settings(supervisor.config, name)),
        workers=[msgspec.Raw(data) for data in reversed(events)],
        first_chunk=_latency(counters.first_chunk),
        response=_latency(counters.handle),
        failures=telemetry.failures.last(failures, name),
        log=telemetry.log_tail.lines(name),
    )


def _settings(config: Config, name: str) -> Iterator[Setting]:
    """Yield the handler's own keys, then those of its policy."""
    own = config.handlers.get(name, {})
    section = f"[handlers.{name}]"
    for key, value in mask_handler(own).items():
        if key not in POLICY_KEYS:
            yield Setting(key, _to_plain(value), section)
    policy, built_in = config.policy(name), HandlerPolicy()
    for key in policy.__struct_fields__:
        is_default = getattr(config.defaults, key) == getattr(built_in, key)
        source = section if key in own else "default" if is_default else "[defaults]"
        yield Setting(key, _to_plain(_with_unit(mask_value(getattr(policy, key), key), key)), source)


def _with_unit(value: Any, key: str) -> Any:
    """Return a duration or size of a policy as the configuration writes it (``5m``); other values as they are."""
    is_amount = value is None or isinstance(value, int | float)
    text = toml_value(value, keys_of(HandlerPolicy)[key]) if is_amount else None
    return text.strip('"') if text is not None and text.startswith('"') else value


def _to_plain(value: Any) -> Any:
    """Return a value as JSON has it, without the secrets of the host."""
    return json.loads(mask_secrets(json.dumps(value, default=str)))


def _latency(histogram: Histogram) -> Latency:
    count = sum(histogram.counts)
    if not count:
        return Latency(0, None, None, None)
    return Latency(count, histogram.sum / count, _quantile(histogram, 0.5), _quantile(histogram, 0.99))


def _quantile(histogram: Histogram, share: float) -> float | None:
    """Return the upper bound of the bucket that this share of the durations does not exceed."""
    remaining = share * sum(histogram.counts)
    for bound, count in zip(BOUNDS, histogram.counts, strict=False):
        remaining -= count
        if remaining <= 0:
            return bound
    return None
