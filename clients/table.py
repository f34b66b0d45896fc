"""Write the table of `docs/reference/clients.md` from `results.json`: `python -m clients.table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
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
)
START, END = "<!-- results -->", "<!-- end -->"


def table(results: dict[str, Any]) -> str:
    """Return a row for each client and handler, and below it the words of each failure."""
    rows = [f"| client | version | handler | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 3) + "|"]
    failures = []
    for name, result in results.items():
        for handler, columns in result["pairs"].items():
            cells = []
            for column in COLUMNS:
                value = columns.get(column, "")
                is_plain = value in ("ok", "not sent", "left out", "")
                cells.append(value if is_plain else "**fails**")
                if not is_plain:
                    failures.append(f"- {name} on `{handler}`, {column}: {value}")
            rows.append(f"| {name} | {result['version']} | `{handler}` | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *(failures or ["No check fails."])])


def main() -> None:
    """Replace the part of the page between the marks."""
    results = json.loads((ROOT / "clients" / "results.json").read_text())
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{table(results)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
