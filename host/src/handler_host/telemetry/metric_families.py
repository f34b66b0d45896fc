"""What the metrics are: names, meanings, labels; made anew for each scrape from the host's counters.

Labels are bounded: handlers are those of the catalog, operations those that they
are known to have (else ``other``), results and causes the host's own words,
consumers those that are configured.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from handler_host._internal.versions import __version__
from handler_host.telemetry.counters import BOUNDS, Histogram
from handler_host.telemetry.hub import TelemetryHub
from handler_host.telemetry.loop_lag import LoopLag
from handler_host.telemetry.views import HostView

Values = Iterable[tuple[tuple[str, ...], float]]

MEANINGS = {
    "handler_host_build_info": "Always 1; the labels tell the versions.",
    "handler_host_draining": "1 while the host takes no new work.",
    "handler_host_dispatches_total": "Dispatches that have ended; the result is ok, cancelled, or an error's code.",
    "handler_host_queue_seconds": "What dispatches waited for a place, activation apart.",
    "handler_host_activation_wait_seconds": "What dispatches waited for an activation, of those that had to.",
    "handler_host_handler_seconds": "What dispatches were in the worker, to the last byte.",
    "handler_host_first_chunk_seconds": "What streams were in the worker to their first piece.",
    "handler_host_in_flight": "Dispatches under way now.",
    "handler_host_queued": "Dispatches that wait now.",
    "handler_host_handler_state": "1 for the state in which a handler is.",
    "handler_host_activations_total": "Activations, by who has caused them: dispatch or operator.",
    "handler_host_unloads_total": "Workers that have ended, by cause.",
    "handler_host_evictions_total": "Workers that were unloaded for another handler's memory.",
    "handler_host_crashes_total": "Workers that have ended unasked, by kind (crash, hang, out of memory).",
    "handler_host_given_back_bytes_total": "Bytes that the ends of workers gave back.",
    "handler_host_pss_bytes": "Memory by process: host, fork_server, worker (with its handler).",
    "handler_host_learned_pss_bytes": "The most that a handler's worker was seen to take.",
    "handler_host_memory_limit_bytes": "What all processes may take together.",
    "handler_host_memory_usable_bytes": "The limit less the headroom: the budget.",
    "handler_host_memory_used_bytes": "What all processes take together.",
    "handler_host_memory_reserved_bytes": "Promised to activations under way, beyond what they take already.",
    "handler_host_loop_lag_seconds": "How late the event loop was, looked at twice a second while the host is scraped.",
    "handler_host_consumer_dispatches_total": "Dispatches by the name of the consumer's key, handler and result.",
    "handler_host_consumer_refusals_total": "Requests that a key was refused, by its name and the reason.",
    "handler_host_wrong_keys_total": "Requests with a wrong key, or a wrong admin token.",
    "handler_host_event_listeners": "Who follows the events now.",
    "handler_host_events_lost_total": "Events that listeners were too slow for.",
}
"""All of them but those of the process (``process_*``), which are the library's."""

CRASHES = ("crash", "hang", "out of memory")


class HostCollector(Collector):
    """Makes the families for the library."""

    def __init__(self, host: HostView, hub: TelemetryHub, lag: LoopLag) -> None:
        self._host = host
        self._counters = hub.counters
        self._events = hub.events
        self._lag = lag
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, accepted: str) -> tuple[str, bytes]:
        """Return content type and body; ``accepted`` is the client's ``Accept``."""
        encode, kind = choose_encoder(accepted)
        return kind, encode(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing may be asked before there is an event loop (prometheus_client)."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families (prometheus_client)."""
        yield from self._process()
        yield from self._dispatches()
        yield from self._handlers()
        yield from self._memory()
        yield from self._consumers()

    def _process(self) -> Iterator[Metric]:
        version = (__version__, platform.python_version())
        yield _gauge("handler_host_build_info", ("version", "python"), [(version, 1)])
        yield _gauge("handler_host_draining", (), [((), int(self._host.draining))])
        yield _histogram("handler_host_loop_lag_seconds", (), [((), self._lag.seen)])
        yield _gauge("handler_host_event_listeners", (), [((), self._events.listeners)])
        yield _counter("handler_host_events_lost_total", (), [((), self._events.lost)])

    def _dispatches(self) -> Iterator[Metric]:
        handlers = self._counters.handlers
        yield _counter(
            "handler_host_dispatches_total",
            ("handler", "operation", "result"),
            (((name, *key), count) for name, own in handlers.items() for key, count in own.dispatches.items()),
        )
        histograms = {
            "handler_host_queue_seconds": "queue",
            "handler_host_activation_wait_seconds": "activate",
            "handler_host_handler_seconds": "handle",
            "handler_host_first_chunk_seconds": "first_chunk",
        }
        # Most handlers are cold: all the buckets of who was never asked would be the bulk of a scrape.
        asked = {name: own for name, own in handlers.items() if own.dispatches}
        for metric, attribute in histograms.items():
            yield _histogram(metric, ("handler",), (((name,), getattr(own, attribute)) for name, own in asked.items()))

    def _handlers(self) -> Iterator[Metric]:
        statuses = self._host.statuses()
        yield _gauge("handler_host_in_flight", ("handler",), (((one.name,), one.in_flight) for one in statuses))
        yield _gauge("handler_host_queued", ("handler",), (((one.name,), one.queued) for one in statuses))
        states = (((one.name, one.state), 1) for one in statuses)
        yield _gauge("handler_host_handler_state", ("handler", "state"), states)
        handlers = self._counters.handlers
        yield _counter(
            "handler_host_activations_total",
            ("handler", "cause", "result"),
            (((name, *key), count) for name, own in handlers.items() for key, count in own.activations.items()),
        )
        unloads = [(name, cause, count) for name, own in handlers.items() for cause, count in own.unloads.items()]
        yield _counter(
            "handler_host_unloads_total",
            ("handler", "cause"),
            (((name, cause), count) for name, cause, count in unloads),
        )
        evicted = (((name,), own.unloads["evicted"]) for name, own in handlers.items())
        yield _counter("handler_host_evictions_total", ("handler",), evicted)
        crashed = (((name, cause), count) for name, cause, count in unloads if cause in CRASHES)
        yield _counter("handler_host_crashes_total", ("handler", "kind"), crashed)
        given_back = (((name,), own.given_back) for name, own in handlers.items())
        yield _counter("handler_host_given_back_bytes_total", ("handler",), given_back)

    def _memory(self) -> Iterator[Metric]:
        report = self._host.last_memory()
        processes = [(("host", ""), report.host), (("fork_server", ""), report.fork_server or 0)]
        processes += [(("worker", name), worker.pss) for name, worker in report.workers.items()]
        yield _gauge("handler_host_pss_bytes", ("process", "handler"), processes)
        learned = (((name,), size) for name, size in report.learned.items())
        yield _gauge("handler_host_learned_pss_bytes", ("handler",), learned)
        for name, size in (
            ("limit", report.limit),
            ("usable", report.usable),
            ("used", report.used),
            ("reserved", report.reserved),
        ):
            yield _gauge(f"handler_host_memory_{name}_bytes", (), [((), size)])

    def _consumers(self) -> Iterator[Metric]:
        counters = self._counters
        labels = ("consumer", "handler", "result")
        yield _counter("handler_host_consumer_dispatches_total", labels, counters.by_consumer.items())
        yield _counter("handler_host_consumer_refusals_total", ("consumer", "reason"), counters.refused.items())
        wrong = (((realm,), counters.wrong_keys[realm]) for realm in ("consumer", "operator"))
        yield _counter("handler_host_wrong_keys_total", ("realm",), wrong)


def _gauge(name: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = GaugeMetricFamily(name, MEANINGS[name], labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _counter(name: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = CounterMetricFamily(name.removesuffix("_total"), MEANINGS[name], labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _histogram(name: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, MEANINGS[name], labels=labels)
    for key, histogram in values:
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(key, buckets, histogram.sum)
    return family
