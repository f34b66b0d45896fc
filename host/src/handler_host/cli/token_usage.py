"""Show the tokens of each consumer, as a running host counts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from handler_host.cli.client import Client
from handler_host.cli.failure import OK
from handler_host.cli.render import echo, echo_json, echo_table, note, sanitize

KINDS = ("input", "cached", "reasoning", "output")
"""Kinds of tokens with a column; ``input`` includes ``cached``, ``output`` includes ``reasoning``."""
BUDGETS = (("tokens_per_minute", "minute_tokens"), ("tokens_per_day", "day_tokens"))


def show_usage(client: Client, consumer: str | None, *, as_json: bool) -> int:
    """Print tokens by consumer, handler and model, then the budgets; return the exit status.

    ``consumer`` is the one to show; None: all.
    """
    report = client.call_admin("GET", "usage")
    if consumer is not None:
        for part in ("usage", "budgets"):
            report[part] = [row for row in report[part] if row["consumer"] == consumer]
    if as_json:
        echo_json(report)
        return OK
    if not report["usage"]:
        note("no tokens are counted yet; a provider reports them with its response")
    else:
        note("of all hosts" if report["all_hosts"] else f"since {report['since'][:16].replace('T', ' ')} UTC")
        rows = [
            (
                row["consumer"] or "-",
                row["handler"],
                sanitize(row["model"]) or "-",
                *(f"{row[kind]:,}" for kind in KINDS),
            )
            for row in report["usage"]
        ]
        columns = ("CONSUMER", "HANDLER", "MODEL", *(kind.upper() for kind in KINDS))
        echo_table(columns, rows, left=("CONSUMER", "HANDLER", "MODEL"))
    budgets = [row for budget in report["budgets"] for row in _budget_rows(budget)]
    if budgets:
        echo()
        echo_table(("CONSUMER", "BUDGET", "USED", "LIMIT"), budgets, left=("CONSUMER", "BUDGET"))
    return OK


def _budget_rows(budget: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for limit, used in BUDGETS:
        if budget[limit] is not None:
            yield budget["consumer"], limit.replace("_", " "), f"{budget[used]:,}", f"{budget[limit]:,}"
