"""Write the table of `docs/reference/clients.md` from the results: `python -m clients.table`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clients import results
from clients.serving import LEFT_OUT, NOT_SENT, OK, ROOT

PAGE = ROOT / "docs" / "reference" / "clients.md"
COLUMNS = (
    "plain",
    "stream",
    "tools",
    "structured",
    "image",
    "document",
    "reasoning",
    "caching",
    "cancel",
    "errors",
    "search",
    "resume",
    "parallel",
    "history",
    "schemas",
    "compaction",
    "retry",
)
START, END = "<!-- results -->", "<!-- end -->"


def table(clients: dict[str, Any]) -> str:
    """Return a row for each client and handler, and below it the words of each failure."""
    rows = [f"| client | version | handler | date | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 4) + "|"]
    failures = []
    for name, client in clients.items():
        for handler, pair in client["pairs"].items():
            cells = []
            for column in COLUMNS:
                value = pair["columns"].get(column, "")
                is_plain = value in (OK, NOT_SENT, LEFT_OUT, "")
                cells.append(value if is_plain else "**fails**")
                if not is_plain:
                    reason = results.FAULTS.get((name, handler, column))
                    of_client = f"; the client's fault: {reason}" if reason else ""
                    failures.append(f"- {name} on `{handler}`, {column}: {value}{of_client}")
            rows.append(f"| {name} | {client['version']} | `{handler}` | {pair['date']} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *(failures or ["No check fails."])])


def summary(clients: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    """Return a line for each client with the outcome on each handler."""
    lines: dict[str, list[str]] = {}
    for name, handler in pairs:
        failed = results.failures(name, handler)
        lines.setdefault(name, []).append(f"{handler} {'fails: ' + ', '.join(failed) if failed else OK}")
    width = max(len(f"{name} {clients[name]['version']}") for name in lines)
    return "\n".join(f"{name} {clients[name]['version']}".ljust(width + 2) + "; ".join(lines[name]) for name in lines)


def main() -> None:
    """Replace the part of the page between the marks."""
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{table(results.read())}\n\n{END}{after}")


if __name__ == "__main__":
    main()
