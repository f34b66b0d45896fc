"""From an entry point to a handler that is ready to be called: import, hooks, operations.

Runs in the worker. Whatever a plugin's author got wrong ends in a
:class:`LoadError` with one sentence for the list, and their own traceback, without
the host's frames, for the log.
"""

from __future__ import annotations

import importlib
import inspect
import os
import traceback
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec
import pluggy

from handler_host._internal.source_location import in_brackets, place_of
from handler_host._internal.suggestions import did_you_mean, nearest
from handler_host.channel.frames import OperationInfo, WorkerSpec
from handler_host.plugin.context import Context
from handler_host.plugin.errors import HostError
from handler_host.plugin.hooks import PROJECT, HandlerHooks
from handler_host.plugin.operations import OPERATION_ATTRIBUTE, OperationMark

HOST = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
IMPORTLIB = os.path.dirname(os.path.abspath(importlib.__file__)) + os.sep

STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator, Iterator, Iterable, Generator)
"""What a streaming operation is annotated with; the first argument is the type of a piece."""
PLAIN = (dict, list, str, bool, int)
"""Types of answers that say nothing of what is inside, so that to be of the type is enough."""


class LoadError(Exception):
    """The handler cannot be loaded or activated."""

    def __init__(self, reason: str, trace: str = "", *, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.trace = trace
        self.out_of_memory = out_of_memory


@dataclass(frozen=True)
class Operation:
    """An operation, with all that is needed to run it."""

    info: OperationInfo
    method: Callable[..., Any]
    kind: typing.Literal["stream", "coroutine", "function", "iterator"]
    takes_request: bool
    takes_call: bool
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    """Of an answer, or of a piece of one; raises ``msgspec.ValidationError`` for what its type does not allow."""
    collect: Callable[[list[Any]], Any]
    encode_collected: Callable[[Any], bytes]
    """As ``encode``, of what ``collect`` returns."""
    place: str
    """``file:line`` of the method, for messages."""


class Handler:
    """A loaded handler: its operations by name, and its hooks."""

    def __init__(self, target: object, operations: dict[str, Operation], hooks: pluggy.PluginManager) -> None:
        self.target = target
        self.operations = operations
        self._hooks = hooks

    async def run_hook(self, name: str, context: Context) -> None:
        """Run a hook, whether it is a function or a coroutine function."""
        for result in getattr(self._hooks.hook, name)(context=context):
            if inspect.isawaitable(result):
                await result


def load(spec: WorkerSpec) -> Handler:
    """Import the entry point and make a handler of it; raises :class:`LoadError`."""
    target = _import(spec.entry_point)
    if inspect.isclass(target):
        try:
            target = target()
        except BaseException as error:
            raise failed(f"{spec.entry_point} could not be made", error) from error
    operations = {}
    for name in dir(type(target)):
        mark = getattr(getattr(type(target), name, None), OPERATION_ATTRIBUTE, None)
        if isinstance(mark, OperationMark):
            operations[mark.name] = _operation(getattr(target, name), mark, spec.entry_point)
    if not operations:
        raise LoadError(
            f"{spec.entry_point}{in_brackets(place_of(type(target)))} has no operation: mark a method with "
            "@handler_host.plugin.operation, or derive the class from handler_host.chat.ChatHandler"
        )
    return Handler(target, operations, _hooks(target, spec.entry_point))


def failed(what: str, error: BaseException) -> LoadError:
    """Return the error for an exception of the plugin's own, its place named and the host's frames cut away."""
    if isinstance(error, HostError):
        # Said by the handler for its users: nothing is to be added.
        return LoadError(error.message)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):  # is in a module that has never run, and so has no frame
        where = f" ({error.filename}:{error.lineno})"
    if isinstance(error, SystemExit):
        text = f"it called sys.exit({error.code!r})"
    else:
        text = f"{type(error).__name__}: {_text_of(error)}".rstrip(": ")
    return LoadError(f"{what}: {text}{where}", trace_of(error), out_of_memory=isinstance(error, MemoryError))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a plugin's exception may have any __str__
        return "its text cannot be had"


def trace_of(error: BaseException) -> str:
    """Return the traceback of an exception without the host's and the import system's frames."""
    return "".join(traceback.format_exception(type(error), error, _skip(error.__traceback__)))


def _import(entry_point: str) -> Any:
    module_name, _, attributes = entry_point.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise LoadError(
                f"the module {error.name!r} of entry point {entry_point!r} is not installed: package it, or correct "
                "the entry point in its pyproject.toml"
            ) from error
        raise failed(f"{module_name} could not be imported", error) from error
    except BaseException as error:
        raise failed(f"{module_name} could not be imported", error) from error
    for attribute in filter(None, attributes.split(".")):
        if not hasattr(found, attribute):
            hint = nearest(attribute, dir(found))
            meant = f"; did you mean {hint!r}?" if hint is not None else ""
            raise LoadError(
                f"{module_name}{in_brackets(getattr(found, '__file__', None) or '')} has no {attribute!r}, which entry "
                f"point {entry_point!r} names: write it, or correct the entry point in its pyproject.toml{meant}"
            )
        found = getattr(found, attribute)
    return found


def _hooks(target: object, entry_point: str) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HandlerHooks)
    for name in dir(target):
        if manager.parse_hookimpl_opts(target, name) is not None:
            _check_hook(getattr(target, name), name, entry_point)
    try:
        manager.register(target)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise LoadError(f"{entry_point}: {' '.join(str(error).split())}") from error
    return manager


def _check_hook(method: Any, name: str, entry_point: str) -> None:
    """Refuse a hook that there is not, or that asks for what no hook is given."""
    where = f"{entry_point}{in_brackets(place_of(method))}"
    known = [hook for hook in vars(HandlerHooks) if not hook.startswith("_")]
    if name not in known:
        hint = nearest(name, known)
        meant = f"; did you mean {hint!r}?" if hint is not None else f"; the hooks are {', '.join(known)}"
        raise LoadError(f"{where}: there is no hook {name!r}{meant}")
    given = inspect.signature(getattr(HandlerHooks, name)).parameters.keys() - {"self"}
    # pluggy gives nothing to what has a default, nor to * and **.
    asked = [
        parameter.name
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    strange = [word for word in asked if word not in given]
    if strange:
        raise LoadError(
            f"{where}: the hook {name!r} takes {', '.join(strange)}, and is given {', '.join(sorted(given))} only"
            f"{did_you_mean(strange[0], given)}"
        )


def _operation(method: Callable[..., Any], mark: OperationMark, entry_point: str) -> Operation:
    place = place_of(method)
    where = f"{entry_point}{in_brackets(place)}: operation {mark.name!r}"
    try:
        hints = typing.get_type_hints(method)
    except Exception as error:
        raise failed(f"{where}: its annotations cannot be read", error) from error
    names = [name for name in inspect.signature(method).parameters if name != "call"]
    if len(names) > 1:
        raise LoadError(f"{where} takes {', '.join(names)}; it may take the request, and 'call'")
    request = hints.get(names[0], Any) if names else Any
    response = hints.get("return", Any)
    kind: typing.Literal["stream", "coroutine", "function", "iterator"] = "function"
    if inspect.isasyncgenfunction(method):
        kind = "stream"
    elif inspect.iscoroutinefunction(method):
        kind = "coroutine"
    elif inspect.isgeneratorfunction(method):
        kind = "iterator"
    whole = chunk = response
    if typing.get_origin(response) in STREAMS:
        response = chunk = typing.get_args(response)[0]
        whole = _type_of_collected(mark, chunk)
    elif kind in ("stream", "iterator"):
        chunk = Any  # it is annotated with what its pieces are put together to
    try:
        decoder = msgspec.json.Decoder(request)
    except TypeError as error:
        raise LoadError(f"{where}: its request type cannot be read from JSON: {error}") from error
    return Operation(
        info=OperationInfo(
            name=mark.name,
            summary=mark.summary,
            streams=kind in ("stream", "iterator"),
            input_schema=_schema(request),
            output_schema=_schema(response),
        ),
        method=method,
        kind=kind,
        takes_request=bool(names),
        takes_call="call" in inspect.signature(method).parameters,
        decode=decoder.decode,
        encode=_encoder(chunk),
        collect=mark.collect or _same,
        encode_collected=_encoder(whole),
        place=place,
    )


def _type_of_collected(mark: OperationMark, chunk: Any) -> Any:
    if mark.collect is None:
        return list[chunk]
    try:
        return typing.get_type_hints(mark.collect).get("return", Any)
    except Exception:  # noqa: BLE001 - a collect of any kind works, and one that does not tell is not checked
        return Any


def _encoder(kind: Any) -> Callable[[Any], bytes]:
    """Return what makes JSON of an answer, and raises ``msgspec.ValidationError`` if the type does not allow it."""
    encode = msgspec.json.Encoder().encode
    if kind is Any:
        return encode
    try:
        check = msgspec.json.Decoder(kind).decode
    except TypeError:  # a type that JSON cannot be read as, which has no schema either
        return encode

    def checked(value: Any) -> bytes:
        data = encode(value)
        if kind not in PLAIN or type(value) is not kind:
            check(data)
        return data

    return checked


def _same(chunks: list[Any]) -> Any:
    return chunks


def _schema(kind: Any) -> dict[str, Any] | None:
    if kind is Any:
        return None
    try:
        return msgspec.json.schema(kind)
    except TypeError:
        return None


def _is_foreign(filename: str) -> bool:
    return not filename.startswith((HOST, IMPORTLIB, "<frozen ")) and f"{os.sep}pluggy{os.sep}" not in filename


def _skip(trace: TracebackType | None) -> TracebackType | None:
    """Return the first part of a traceback that is not the host's own, or None if all of it is."""
    while trace is not None and not _is_foreign(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace
