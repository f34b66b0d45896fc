"""The tables of docs/reference/unsupported-fields.md, generated from the tables of the code: ``make reference``.

    python -m handler_host.protocols.reference docs/reference/unsupported-fields.md

The page keeps its text; each table between ``<!-- fields: NAME -->`` and ``<!-- end -->`` is replaced. Nothing of the
host imports this module.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from handler_host.chat.support import DEMANDS, HINTS
from handler_host.protocols.anthropic.messages import FIELDS as ANTHROPIC
from handler_host.protocols.fields import Field
from handler_host.protocols.gemini.requests import FIELDS as GEMINI
from handler_host.protocols.ollama.requests import FIELDS as OLLAMA
from handler_host.protocols.openai.requests import FIELDS as OPENAI
from handler_host.protocols.openai_responses.requests import FIELDS as RESPONSES

PROTOCOLS: dict[str, Mapping[str, Field]] = {
    "openai": OPENAI,
    "openai_responses": RESPONSES,
    "anthropic": ANTHROPIC,
    "gemini": GEMINI,
    "ollama": OLLAMA,
}
_BLOCK = re.compile(r"(<!-- fields: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """Return the page with its tables replaced."""
    return _BLOCK.sub(lambda match: match[1] + "\n".join(_table(match[2])) + "\n" + match[3], text)


def _table(name: str) -> Iterator[str]:
    if name == "handlers":
        yield from ("| field of the chat | class | meaning |", "|---|---|---|")
        for kind, fields in (("hint", HINTS), ("demand", DEMANDS)):
            yield from (f"| `{field}` | {kind} | {meaning} |" for field, meaning in fields.items())
        return
    yield from ("| field | class | values that ask for nothing | instead |", "|---|---|---|---|")
    for path, field in sorted(PROTOCOLS[name].items()):
        if field.kind != "echo":
            neutral = ", ".join(f"`{json.dumps(value)}`" for value in field.neutral)
            yield f"| `{path}` | {field.kind} | {neutral} | {field.remedy or ''} |"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(page(target.read_text()))
