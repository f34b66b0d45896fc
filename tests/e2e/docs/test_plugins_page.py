"""The tables for authors say what the code has: fields, errors, settings, members to override."""

from __future__ import annotations

import inspect
import re
from typing import get_args

import msgspec

import gpt_a
from gpt_a import GptA
from handler_host import chat
from handler_host.catalog import settings
from handler_host.chat import ChatChunk, ChatRequest, Content, FinishReason, Message, ResponsePart
from handler_host.plugin.errors import ConfigError, ContextLengthExceeded, HostError, InvalidInput, UpstreamError
from tests.e2e.docs.reading import ROOT

PAGE = (ROOT / "docs/reference/plugins.md").read_text()
GPT_A = (ROOT / "plugins/gpt_a/README.md").read_text()


def table(text: str, head: str) -> list[list[str]]:
    """Return the rows of the table whose first cell of its head is ``head``."""
    rows = text.partition(f"\n| {head} |")[2].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def shown(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else repr(annotation)
    return re.sub(r"handler_host\.chat\.\w+\.|typing\.", "", text).replace(" | ", " or ").replace("'", '"')


def fields(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the fields of a type as the page shows them: with their default, unless that is None."""
    annotations = {
        name: value for base in reversed(kind.__mro__) for name, value in vars(base).get("__annotations__", {}).items()
    }
    found = {}
    for field in msgspec.structs.fields(kind):
        told = shown(annotations[field.name])
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        optional = default is msgspec.NODEFAULT or default is None
        assert default is not None or "None" in told
        found[field.name] = told if optional else told + " = " + repr(default).replace("'", '"')
    return found


def test_the_fields_of_a_request_are_documented_with_their_types() -> None:
    rows = table(PAGE, "field of `ChatRequest`")
    assert [(name.strip("`"), kind.strip("`")) for name, kind, _ in rows] == [*fields(ChatRequest).items()]


def test_the_chunks_are_documented_with_their_tags_and_fields() -> None:
    documented = {
        name.strip("`"): (tag.strip("`"), dict(re.findall(r"`(\w+): ([^`]+)`", kinds)))
        for name, tag, kinds, _ in table(PAGE, "chunk")
    }
    chunks = get_args(ChatChunk)
    assert documented == {kind.__name__: (kind.__struct_config__.tag, fields(kind)) for kind in chunks}


def test_fields_of_all_chat_parts_are_documented() -> None:
    documented = {
        name.strip("`"): dict(re.findall(r"`(\w+): ([^`]+)`", kinds)) for name, kinds, _ in table(PAGE, "type")
    }
    kinds = [getattr(chat, name) for name in chat.__all__]
    structs = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    expected = {kind.__name__: fields(kind) for kind in structs if kind not in (ChatRequest, *get_args(ChatChunk))}
    assert documented == expected


def test_what_the_short_names_stand_for_is_documented() -> None:
    rows = PAGE.partition("\n| name | stands for |")[2].partition("\n\n")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)`", rows, re.MULTILINE))
    names = {"Message": Message, "Content": Content, "ResponsePart": ResponsePart, "FinishReason": FinishReason}
    assert documented == {name: shown(kind) for name, kind in names.items()}


def test_errors_for_authors_are_documented_with_their_arguments() -> None:
    documented = {name.strip("`"): (int(status), code.strip("`")) for name, status, code, _ in table(PAGE, "error")}
    kinds: list[type[HostError]] = [InvalidInput, ContextLengthExceeded, ConfigError, UpstreamError]
    kinds += UpstreamError.__subclasses__()
    assert documented == {kind.__name__: (kind.status, kind.code) for kind in kinds}
    arguments = inspect.signature(HostError.__init__, eval_str=False).parameters
    assert list(arguments) == ["self", "message", "retry_after", "param", "details", "cause"]
    assert "`(message, *, retry_after=None, param=None, details=None, cause=None)`" in PAGE
    assert all(kind.__init__ is HostError.__init__ for kind in kinds)


def test_types_of_settings_are_documented_with_their_keys() -> None:
    documented = {
        name.strip("`"): (meaning, re.findall(r"`(\w+)`(?:,|:|$)", further))
        for name, meaning, further in table(PAGE, "`type` of `[config.KEY]`")
    }
    shapes = settings.SHAPES.items()
    expected = {
        name: (meaning, [key for key, (_, goes_with) in shapes if name in goes_with])
        for name, (meaning, _) in settings.TYPES.items()
    }
    assert documented == expected
    keys = re.findall(r"^\| `\[config\.KEY\]` \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(keys) == sorted(settings.KEYS)


def test_what_a_variant_of_gpt_a_may_override_is_documented() -> None:
    documented = {re.findall(r"\w+", name)[0] for name, _ in table(GPT_A, "member of `GptA`")}
    assert documented == {name for name in vars(GptA) if not name.startswith("_")}


def test_settings_that_a_variant_of_gpt_a_needs_are_documented() -> None:
    source = inspect.getsource(gpt_a)
    needed, optional = (set(re.findall(rf"config{read}\"(\w+)\"", source)) for read in (r"\[", r"\.get\("))
    told = GPT_A.partition("The manifest must have")[2].partition("\n\n")[0]
    first, _, second = told.partition("may have")
    assert (set(re.findall(r"`(\w+)`", first)), set(re.findall(r"`(\w+)`", second))) == (needed, optional)
