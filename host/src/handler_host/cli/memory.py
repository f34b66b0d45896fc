"""``handler-host memory``: who has how much, of what limit, and who would have to go next."""

from __future__ import annotations

from typing import Any

from handler_host.cli.render import duration, echo, put_table, size


def put_memory(report: dict[str, Any]) -> None:
    """Print the answer of ``GET /admin/memory`` for people."""
    _put_processes(report)
    echo()
    _put_budget(report)
    if report["handlers"]:
        echo()
        _put_handlers(report["handlers"])


def _put_processes(report: dict[str, Any]) -> None:
    rows = [("host", "-", size(report["host"]), "-")]
    if report["fork_server"] is not None:
        rows.append(("fork server", "-", size(report["fork_server"]), "-"))
    for name, worker in sorted(report["workers"].items()):
        rows.append((name, str(worker["generation"]), size(worker["pss"]), size(worker["peak"])))
    rows.append(("together", "", size(report["used"]), ""))
    put_table(("PROCESS", "GEN", report["measure"].upper(), "PEAK"), rows, left=("PROCESS",))


def _put_budget(report: dict[str, Any]) -> None:
    path = f", {report['limit_path']}" if report["limit_path"] is not None else ""
    echo(
        f"limit {size(report['limit'])} ({report['limit_source']}{path}), of which {size(report['headroom'])} are kept "
        f"free and {size(report['usable'])} may be used"
    )
    others = f", {size(report['others'])} held by others" if report["others"] else ""
    free = f"{size(report['room'])} are free" if report["room"] >= 0 else f"{size(-report['room'])} too much"
    echo(f"used {size(report['used'])}, reserved {size(report['reserved'])}{others}: {free}")
    pressure, sampling = report["pressure"], report["sampling"]
    if pressure["short"]:
        share = f"{pressure['stalled_share']:.0%} of the time"
        echo(f"memory is short: tasks wait for it {share} ({pressure['stalled_source']}); activations wait")
    if pressure["kills"]:
        echo(f"killed for memory since the kernel counts: {pressure['kills']} ({pressure['kills_source']})")
    for waiting in report["waiting"]:
        echo(f"{waiting['handler']} waits for {size(waiting['amount'])} since {duration(waiting['waited'])}")
    if report["refused"]:
        echo(f"activations without room since the start: {report['refused']}")
    victims = [
        f"{one['handler']} ({size(one['size'])}, idle {duration(one['idle_for'])})" for one in report["evict_next"]
    ]
    echo(f"evicted next: {', '.join(victims) or 'nobody is idle'}")
    echo(
        f"measured every {duration(sampling['every'])} in {duration(sampling['cost'])} of processor time "
        f"({sampling['share']:.1%}); learned: {report['state_file'] or 'not kept'}"
    )


def _put_handlers(handlers: dict[str, Any]) -> None:
    rows = [
        (
            name,
            one["state"],
            size(one["pss"]),
            size(one["peak"]),
            size(one["learned_peak"]),
            f"{size(one['expected'])} ({one['expected_source']})",
            duration(one["activate_seconds"]),
            _notes(one),
        )
        for name, one in handlers.items()
    ]
    columns = ("HANDLER", "STATE", "NOW", "PEAK", "LEARNED", "NEXT TIME", "ACTIVATES IN", "NOTES")
    put_table(columns, rows, left=("HANDLER", "STATE", "NOTES"))


def _notes(one: dict[str, Any]) -> str:
    last = one["last_exit"]
    notes = [
        "pinned" if one["pin"] else "",
        f"soft limit {size(one['soft_limit'])}" if one["soft_limit"] is not None else "",
        f"hard limit {size(one['hard_limit'])}" if one["hard_limit"] is not None else "",
        f"killed for memory {one['out_of_memory']} times" if one["out_of_memory"] else "",
        f"last exit: {last['kind']}, {last['at']}" if last is not None else "",
    ]
    return ", ".join(filter(None, notes))
