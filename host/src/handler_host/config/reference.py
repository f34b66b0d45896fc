"""The reference of the configuration, generated from its types: ``make reference``.

    python -m handler_host.config.reference docs/reference/configuration.md examples/host.toml

The page keeps its text; each table between ``<!-- keys: SECTION -->`` and ``<!-- end -->`` is replaced. The example
is written whole. Nothing of the host imports this module.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from handler_host._internal.attribute_docs import attribute_docs
from handler_host._internal.units import format_duration
from handler_host.config import Config
from handler_host.config.fields import Number
from handler_host.config.loader import PREFIX
from handler_host.config.toml_text import toml_value
from handler_host.config.values import SECTIONS, keys_of

OTHERS = "others"
"""The table of the keys that stand before the first section."""
WIDTH = 120
"""Longest line of the example."""
_VALUE_WIDTH = 32
"""Column at which the comments of the example begin."""
_BLOCK = re.compile(r"(<!-- keys: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

_KINDS = {"count": "whole number", "amount": "number", "size": "size", "duration": "duration", "share": "share or size"}
_KINDS["percentage"] = "share"

_HEAD = """\
# host.toml: every key with its default. Keep the lines that you change and delete the others.
# Generated from handler_host.config by `make reference`.
#
# An environment variable overrides this file:
#   HANDLER_HOST_SERVER__PORT=9000   HANDLER_HOST_HANDLERS__GPT_A__MODEL=gpt-4o
# and a flag, where there is one, overrides both: handler-host serve --port 9000
#
# Durations: "250ms", "30s", "5m", "1h30m", or a number of seconds.
# Sizes: "64KB", "4MB", "1.5GB" (powers of 1024), or a number of bytes.
# Relative paths start at the directory of this file.
#
#   handler-host config --config host.toml    shows the values in force and their sources
"""
_TAIL = """\

# Names that clients may request, and the handler (or HANDLER/MODEL) that each stands for.
[models]
# fast = "gpt_e"                # a name: the handler, with its own model
# "claude-*" = "gpt_b"          # a pattern: the handler, with the requested model
# "gpt-5*" = "gpt_a/{model}"    # the same, written out; gpt_a/{default}: with the handler's own model

# One handler: keys of [defaults], and its own keys, which its manifest declares.
[handlers.gpt_a]
idle_after = "10m"
model = "gpt-4o-mini"
"""


class Key(NamedTuple):
    """One key with all that the reference says about it."""

    section: str
    """Empty for the keys before the first section."""
    name: str
    kind: str
    """The kind of its values, in words: ``size``, ``list of paths``."""
    default: str | None
    """In TOML; None where the host computes it, and where the key has no default."""
    computed: str | None
    """The default that the host computes, in words."""
    example: str | None
    """In TOML."""
    summary: str
    details: str
    """The paragraphs after the summary, joined."""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{PREFIX}{self.section}__{self.name}".upper() if self.section else f"{PREFIX}{self.name}".upper()


class SectionText(NamedTuple):
    """The docstring of a section."""

    summary: str
    details: str


def keys(section: str) -> list[Key]:
    """Return the keys of a section in their order; :data:`OTHERS` stands for those before the first section."""
    if section == OTHERS:
        return [_key("", "data_dir", Config)]
    return [_key(section, name, SECTIONS[section]) for name in SECTIONS[section].__struct_fields__]


def section_text(section: str) -> SectionText:
    """Return the text about a section; raises ``ValueError`` if its docstring does not begin with its name."""
    summary, *details = _paragraphs(inspect.getdoc(SECTIONS[section]) or "")
    prefix = f"``[{section}]``: "
    if not summary.startswith(prefix):
        raise ValueError(f"the docstring of [{section}] must begin with {prefix!r}")
    text = summary.removeprefix(prefix)
    return SectionText(text[0].upper() + text[1:], " ".join(details))


def page(text: str) -> str:
    """Return the page of the reference with its tables written again."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{_block(match[2])}\n{match[3]}", text)


def example() -> str:
    """Return the example, ``host.toml``."""
    return _HEAD + "\n" + "".join(_example_lines()) + _TAIL


def _example_lines() -> Iterator[str]:
    for key in keys(OTHERS):
        yield _example_line(key)
    for section in SECTIONS:
        text = section_text(section)
        yield f"\n{f'[{section}]':<{_VALUE_WIDTH - 1}} # {_plain(text.summary)}\n"
        if text.details:
            lines = textwrap.wrap(_plain(text.details), WIDTH, initial_indent="# ", subsequent_indent="# ")
            yield "\n".join(lines) + "\n"
        for key in keys(section):
            yield _example_line(key)


def _example_line(key: Key) -> str:
    comment = _plain(key.summary)
    if key.default is not None:
        setting = f"{key.name} = {key.default}"
        if key.example is not None:
            comment = f"{comment.removesuffix('.')}: {key.example}"
    else:
        setting = f"# {key.name} = {key.example}"
    line = f"{setting:<{_VALUE_WIDTH - 1}} # {comment}"
    return f"{line}\n" if len(line) <= WIDTH else f"# {comment}\n{setting}\n"


def _block(section: str) -> str:
    """Return the text and the table of a section for the page."""
    paragraphs = section_text(section) if section != OTHERS else ()
    rows = [_markdown(paragraph) + "\n" for paragraph in paragraphs if paragraph]
    rows += ["| key | value | default | meaning | variable |", "|---|---|---|---|---|"]
    for key in keys(section):
        default = key.computed or (f"`{_unquoted(key.default)}`" if key.default not in (None, "[]", "{}") else "none")
        meaning = f"{key.summary} {key.details}".strip()
        if key.example is not None and "..." not in key.example:
            meaning += f" Example: `{key.example}`."
        cells = (f"`{key.name}`", key.kind, _markdown(default), _markdown(meaning), f"`{key.variable}`")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _key(section: str, name: str, owner: type[msgspec.Struct]) -> Key:
    annotation = keys_of(owner)[name]
    value = getattr(owner(), name)
    notes: dict[str, str] = {}
    paragraphs: list[str] = []
    for paragraph in _paragraphs(attribute_docs(owner)[name]):
        label, colon, rest = paragraph.partition(": ")
        if colon and label in ("Default", "Example"):
            notes[label] = rest
        else:
            paragraphs.append(paragraph)
    return Key(
        section=section,
        name=name,
        kind=_kind(annotation),
        default=toml_value(value, annotation) if value != {} else None,
        computed=notes.get("Default"),
        example=notes["Example"].strip("`") if "Example" in notes else None,
        summary=paragraphs[0],
        details=" ".join(paragraphs[1:]),
    )


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _kind(annotation: Any) -> str:
    """Return the kind of a key's values in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _number_kind(arguments[1])
    if origin is Literal:
        return f"{', '.join(f'`{word}`' for word in arguments[:-1])} or `{arguments[-1]}`"
    if origin is tuple:
        return f"list of {_kind(arguments[0])}s"
    if origin is dict:
        items = {Literal: "levels", Annotated: "numbers"}
        return f"table of {items.get(get_origin(arguments[1]), 'texts')}"
    if annotation is bool:
        return "`true` or `false`"
    return "path" if annotation is Path or Path in arguments else "text"


def _number_kind(number: Number) -> str:
    least = f", at least {_bound(number.least, number.written)}" if number.least > 0 else ""
    most = f", at most {_bound(number.most, number.written)}" if number.most < 2**31 - 1 else ""
    return f"{_KINDS[number.written]}{least}{most}{f', or `{number.none}`' if number.none is not None else ''}"


def _bound(value: float, written: str) -> str:
    if written == "duration":
        return format_duration(value)
    text = _unquoted(toml_value(value, Annotated[int, Number(written="size")])) if written == "size" else str(value)
    return f"{text} {'byte' if value == 1 else 'bytes'}" if written == "size" and text.isdecimal() else text


def _unquoted(text: str | None) -> str:
    """Return a text's value without its quotes."""
    return text[1:-1] if text is not None and re.fullmatch(r'"[^"]*"', text) else str(text)


def _markdown(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _plain(text: str) -> str:
    return text.replace("``", "").replace("`", "")


def main(arguments: list[str]) -> int:
    """Write the page and the example."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m handler_host.config.reference PAGE EXAMPLE\n")
        return 2
    page_path, example_path = map(Path, arguments)
    page_path.write_text(page(page_path.read_text(encoding="utf-8")), encoding="utf-8")
    example_path.write_text(example(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
