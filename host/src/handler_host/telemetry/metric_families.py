"""The metric families: names, meanings and labels; built from the host's counters at each scrape.

Labels are bounded: handlers of the catalog, their declared operations (else ``other``),
results and causes of a fixed list, configured consumers.
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
    "handler_host_build_info": "Always 1; the labels are the versions.",
    "handler_host_draining": "1 while the host rejects new work.",
    "handler_host_dispatches_total": "Finished dispatches; the result is ok, cancelled or the code of an error.",
    "handler_host_queue_seconds": "Time of dispatches in the queue, without the activation.",
    "handler_host_activation_wait_seconds": "Time of dispatches waiting for an activation, of those that had to wait.",
    "handler_host_handler_seconds": "Time of dispatches in the worker, to the last byte.",
    "handler_host_first_chunk_seconds": "Time of streams in the worker, to the first chunk.",
    "handler_host_in_flight": "Dispatches in flight.",
    "handler_host_queued": "Dispatches in the queue.",
    "handler_host_handler_state": "1 for the present state of a handler.",
    "handler_host_workers": "Workers of a handler, in any state.",
    "handler_host_activations_total": "Activations by cause: dispatch, operator, growth or deploy check.",
    "handler_host_unloads_total": "Ended workers by cause.",
    "handler_host_evictions_total": "Workers unloaded to make memory available for another handler.",
    "handler_host_crashes_total": "Workers that ended unexpectedly, by kind (crash, hang, out of memory).",
    "handler_host_given_back_bytes_total": "Bytes released by the exits of workers.",
    "handler_host_pss_bytes": "Memory by process: host, fork_server, worker (with its handler).",
    "handler_host_learned_pss_bytes": "Highest measured memory of a handler's worker.",
    "handler_host_memory_limit_bytes": "Memory limit of all processes together.",
    "handler_host_memory_usable_bytes": "The limit less the headroom: the budget.",
    "handler_host_memory_used_bytes": "Memory in use by all processes together.",
    "handler_host_memory_reserved_bytes": "Memory reserved for activations in progress, beyond their present use.",
    "handler_host_loop_lag_seconds": "Lag of the event loop, measured twice a second while the host is scraped.",
    "handler_host_consumer_dispatches_total": "Finished dispatches by consumer, handler and result.",
    "handler_host_consumer_refusals_total": "Rejected requests by consumer and reason: rate, tokens, concurrency …",
    "handler_host_tokens_total": "Tokens that providers reported, by handler, consumer, model and kind.",
    "handler_host_shared_calls_total": "Calls of the server that several hosts share, by result: ok or failed.",
    "handler_host_wrong_keys_total": "Requests with a wrong consumer key or admin token.",
    "handler_host_event_listeners": "Clients of the event stream.",
    "handler_host_events_lost_total": "Events lost by listeners that read too slowly.",
}
"""The host's families; the library adds those of the process (``process_*``)."""

CRASHES = ("crash", "hang", "out of memory")


class HostCollector(Collector):
    """Collects the families for ``prometheus_client``."""

    def __init__(self, host: HostView, hub: TelemetryHub, lag: LoopLag) -> None:
        self._host = host
        self._counters = hub.counters
        self._usage = hub.usage
        self._events = hub.events
        self._lag = lag
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, accepted: str) -> tuple[str, bytes]:
        """Return content type and body for the client's ``Accept`` header."""
        encode, kind = choose_encoder(accepted)
        return kind, encode(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Return no families: there may be no event loop yet (prometheus_client)."""
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
        yield _histogram("handler_host_loop_lag_seconds", (), [((), self._lag.histogram)])
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
        # Most handlers are cold: the empty buckets of unused ones would be the bulk of a scrape.
        used = {name: own for name, own in handlers.items() if own.dispatches}
        for metric, attribute in histograms.items():
            yield _histogram(metric, ("handler",), (((name,), getattr(own, attribute)) for name, own in used.items()))

    def _handlers(self) -> Iterator[Metric]:
        statuses = self._host.statuses()
        yield _gauge(
            "handler_host_in_flight", ("handler",), (((status.name,), status.in_flight) for status in statuses)
        )
        yield _gauge("handler_host_queued", ("handler",), (((status.name,), status.queued) for status in statuses))
        states = (((status.name, status.state), 1) for status in statuses)
        yield _gauge("handler_host_handler_state", ("handler", "state"), states)
        workers = (((status.name,), len(status.workers)) for status in statuses)
        yield _gauge("handler_host_workers", ("handler",), workers)
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
        tokens = (
            ((row.handler, row.consumer, row.model, kind), count)
            for row in self._usage.rows()
            for kind, count in row.by_kind().items()
            if count
        )
        yield _counter("handler_host_tokens_total", ("handler", "consumer", "model", "kind"), tokens)
        if counters.shared_calls:
            calls = (((result,), counters.shared_calls[result]) for result in ("ok", "failed"))
            yield _counter("handler_host_shared_calls_total", ("result",), calls)
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
