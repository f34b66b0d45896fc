"""The operators' commands: ``ps``, ``load``, ``unload``, ``reload``, ``rescan``, ``memory``, ``drain``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from host.cli import OK, USAGE
from host.cli.client import Client
from host.cli.failure import Failure
from host.cli.render import duration, put, put_json, put_table, size

_WITHOUT_WORKER = frozenset({"cold", "failed", "invalid", "incompatible", "conflict", "blocked", "missing-secret"})


def ps(arguments: argparse.Namespace) -> int:
    """List the handlers."""
    answer = Client(arguments).admin("GET", "handlers")
    if arguments.json:
        put_json(answer)
        return OK
    rows = [
        (
            handler["name"],
            handler["state"],
            str(handler["generation"] or "-"),
            str(handler["pid"] or "-"),
            size(handler["pss"]),
            size(handler["learned_pss"]),
            str(handler["in_flight"]),
            str(handler["queued"]),
            duration(handler["idle_for"]),
            duration(handler["expires_in"]),
            handler["reason"] or "",
        )
        for handler in answer["handlers"]
    ]
    columns = ("NAME", "STATE", "GEN", "PID", "PSS", "LEARNED", "BUSY", "QUEUED", "IDLE", "EXPIRES", "REASON")
    put_table(columns, rows, right=(2, 3, 4, 5, 6, 7, 8, 9))
    if not rows:
        put("no handlers: install a plugin and run `handler-host rescan`")
    return OK


def load(arguments: argparse.Namespace) -> int:
    """Activate handlers."""
    client = Client(arguments)
    receipts = [client.admin("POST", "handlers", name, "load") for name in arguments.handlers]
    if arguments.json:
        put_json(receipts)
        return OK
    for receipt in receipts:
        if receipt["already"]:
            put(f"{receipt['handler']}: active already, generation {receipt['generation']}")
            continue
        grown = receipt["pss_after"] - receipt["pss_before"]
        put(
            f"{receipt['handler']}: active, generation {receipt['generation']}, pid {receipt['pid']}, "
            f"{size(grown)} taken in {duration(receipt['activate_seconds'])}"
        )
    return OK


def unload(arguments: argparse.Namespace) -> int:
    """Take workers away."""
    return _take_away(arguments, "unload")


def reload(arguments: argparse.Namespace) -> int:
    """Take workers away, so that new ones run what is installed now."""
    return _take_away(arguments, "reload")


def _take_away(arguments: argparse.Namespace, action: str) -> int:
    client = Client(arguments)
    names = list(arguments.handlers)
    if arguments.all:
        handlers = client.admin("GET", "handlers")["handlers"]
        names += [handler["name"] for handler in handlers if handler["state"] not in _WITHOUT_WORKER]
    elif not names:
        raise Failure(f"name a handler, or all that have a worker: handler-host {action} --all", USAGE)
    query: dict[str, object] = {"mode": arguments.mode}
    if arguments.deadline is not None:
        query["deadline_s"] = arguments.deadline
    if arguments.no_wait:
        query["wait"] = "false"
    receipts = [client.admin("POST", "handlers", name, action, **query) for name in dict.fromkeys(names)]
    if arguments.json:
        put_json(receipts)
        return OK
    for name, receipt in zip(dict.fromkeys(names), receipts, strict=True):
        put(f"{name}: {_sentence(receipt)}")
    if not receipts:
        put("no handler has a worker")
    return OK


def _sentence(receipt: dict[str, Any]) -> str:
    if receipt.get("accepted"):
        return "accepted, not waited for"
    if receipt["generation"] is None:
        return f"nothing to unload, it was {receipt['was']}"
    return (
        f"unloaded generation {receipt['generation']}, {size(receipt['bytes_given_back'])} given back "
        f"in {duration(receipt['seconds'])} ({receipt['drained']} drained, {receipt['killed']} killed)"
    )


def rescan(arguments: argparse.Namespace) -> int:
    """Read what is installed anew."""
    report = Client(arguments).admin("POST", "rescan")
    if arguments.json:
        put_json(report)
        return OK
    for what in ("added", "removed", "changed"):
        if report[what]:
            put(f"{what}: {', '.join(report[what])}")
    if not any(report[what] for what in ("added", "removed", "changed")):
        put("nothing has changed")
    for name, reason in report["problems"].items():
        put(f"cannot run: {name}: {reason}")
    for warning in report["warnings"]:
        sys.stderr.write(f"warning: {warning}\n")
    return OK


def memory(arguments: argparse.Namespace) -> int:
    """Show the memory of the host and its processes."""
    report = Client(arguments).admin("GET", "memory")
    if arguments.json:
        put_json(report)
        return OK
    rows = [("host", "-", size(report["host"]), "-")]
    if report["fork_server"] is not None:
        rows.append(("fork server", "-", size(report["fork_server"]), "-"))
    for name, worker in sorted(report["workers"].items()):
        rows.append((name, str(worker["generation"]), size(worker["pss"]), size(worker["peak"])))
    rows.append(("together", "", size(report["used"]), ""))
    put_table(("PROCESS", "GEN", report["measure"].upper(), "PEAK"), rows, right=(1, 2, 3))
    put(f"limit {size(report['limit'])} ({report['limit_source']}), {size(report['usable'])} of it to be used")
    if report["reserved"]:
        put(f"reserved for activations under way: {size(report['reserved'])}")
    return OK


def drain(arguments: argparse.Namespace) -> int:
    """Let the host take no new work."""
    answer = Client(arguments).admin("POST", "drain")
    if arguments.json:
        put_json(answer)
    else:
        put(f"the host takes no new work; {answer['in_flight']} dispatches are under way")
    return OK
