"""``handler-host memory``."""

from __future__ import annotations

import argparse
from collections import Counter
from types import SimpleNamespace
from typing import Any

from handler_host.cli.failure import OK
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, echo_json, echo_table, show_duration, show_size

DESCRIPTION = (
    "The figures are PSS: a page that several processes share is counted once in all, so that the figures add up. "
    "DROPPABLE is the part that the kernel can drop when memory is short, and read again: pages of files, such as the "
    "weights of a model. "
    "PEAK is the largest value of the current worker, and RESERVES what the handler's next activation will reserve. "
    "Several workers of a handler are one row with their sums: GEN is the oldest one's, and the number of the others."
)
EXAMPLES = ("handler-host memory", "handler-host memory --json | jq .used")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_host_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Print the memory of the processes, the budget, and the handlers to evict next."""
    from handler_host.cli.client import Client

    report = Client.from_arguments(arguments).call_admin("GET", "memory")
    if arguments.json:
        echo_json(report)
        return OK
    _echo_processes(report)
    echo()
    _echo_budget(report)
    if report["handlers"]:
        echo()
        _echo_handlers(report["handlers"])
    return OK


def _echo_processes(report: dict[str, Any]) -> None:
    rows = [("host", "-", show_size(report["host"]), "-", "-")]
    if report["fork_server"] is not None:
        rows.append(("fork server", "-", show_size(report["fork_server"]), "-", "-"))
    for name, worker in sorted(report["workers"].items()):
        sizes = (show_size(worker[key]) for key in ("pss", "droppable", "peak"))
        more = worker.get("count", 1) - 1
        rows.append((name, f"{worker['generation']} +{more}" if more else str(worker["generation"]), *sizes))
    rows.append(("total", "", show_size(report["used"]), "", ""))
    echo_table(("PROCESS", "GEN", report["measure"].upper(), "DROPPABLE", "PEAK"), rows, left=("PROCESS",))


def _echo_budget(report: dict[str, Any]) -> None:
    path = f", {report['limit_path']}" if report["limit_path"] is not None else ""
    echo(
        f"limit {show_size(report['limit'])} ({report['limit_source']}{path}): "
        f"{show_size(report['headroom'])} headroom, {show_size(report['usable'])} usable"
    )
    droppable = f" (of it {show_size(report['droppable'])} the kernel can drop)" if report["droppable"] else ""
    external = f", {show_size(report['others'])} used by other processes" if report["others"] else ""
    available = (
        f"{show_size(report['room'])} available" if report["room"] >= 0 else f"{show_size(-report['room'])} over budget"
    )
    echo(
        f"used {show_size(report['used'])}{droppable}, reserved {show_size(report['reserved'])}{external}: {available}"
    )
    pressure, sampling = report["pressure"], report["sampling"]
    if pressure["short"]:
        share = f"{pressure['stalled_share']:.0%} of the time"
        echo(f"memory pressure: tasks wait for memory {share} ({pressure['stalled_source']}); activations wait")
    if pressure["kills"]:
        echo(f"killed by the kernel for lack of memory: {pressure['kills']} ({pressure['kills_source']})")
    for waiting in report["waiting"]:
        echo(f"{waiting['handler']} has waited {show_duration(waiting['waited'])} for {show_size(waiting['amount'])}")
    if report["refused"]:
        echo(f"activations refused for lack of memory since the start: {report['refused']}")
    workers = Counter(victim["handler"] for victim in report["evict_next"])
    victims = [_victim(victim, is_single=workers[victim["handler"]] == 1) for victim in report["evict_next"]]
    echo(f"evicted next: {', '.join(victims) or 'none, no handler is idle'}")
    echo(
        f"sampled every {show_duration(sampling['every'])}, {show_duration(sampling['cost'])} of CPU time each "
        f"({sampling['share']:.1%}); learned sizes are kept in: {report['state_file'] or 'no file'}"
    )


def _echo_handlers(handlers: dict[str, Any]) -> None:
    rows = [
        (
            name,
            handler["state"],
            show_size(handler["pss"]),
            show_size(handler["peak"]),
            show_size(handler["learned_peak"]),
            f"{show_size(handler['expected'])} ({handler['expected_source']})",
            show_duration(handler["activate_seconds"]),
            _notes(handler),
        )
        for name, handler in handlers.items()
    ]
    columns = ("HANDLER", "STATE", "NOW", "PEAK", "LEARNED", "RESERVES", "COLD START", "NOTES")
    echo_table(columns, rows, left=("HANDLER", "STATE", "NOTES"))


def _notes(handler: dict[str, Any]) -> str:
    last = handler["last_exit"]
    notes = [
        "pinned" if handler["pin"] else "",
        f"soft limit {show_size(handler['soft_limit'])}" if handler["soft_limit"] is not None else "",
        f"hard limit {show_size(handler['hard_limit'])}" if handler["hard_limit"] is not None else "",
        f"killed for lack of memory {handler['out_of_memory']} times" if handler["out_of_memory"] else "",
        f"last exit: {last['kind']}, {last['at']}" if last is not None else "",
    ]
    return ", ".join(filter(None, notes))


def _victim(victim: dict[str, Any], *, is_single: bool) -> str:
    """Return a worker that is evicted next; if it is one of several of its handler, with its generation."""
    name = victim["handler"] if is_single else f"{victim['handler']} generation {victim['generation']}"
    return f"{name} ({show_size(victim['size'])}, idle {show_duration(victim['idle_for'])})"
