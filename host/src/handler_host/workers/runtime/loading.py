"""Load a handler from its entry point: import, hooks, operations.

Runs in the worker. Every mistake in a plugin becomes a :class:`LoadError` with one sentence for the list of
handlers and, for the log, the plugin's own traceback without the host's frames.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec
import pluggy

from handler_host._internal.field_path import shorten
from handler_host._internal.source_location import in_brackets, place_of
from handler_host._internal.suggestions import did_you_mean, nearest
from handler_host._internal.text import repair_texts
from handler_host.channel.frames import OperationInfo, WorkerSpec
from handler_host.plugin.context import Context
from handler_host.plugin.errors import HostError
from handler_host.plugin.hooks import PROJECT, HandlerHooks
from handler_host.plugin.operations import OPERATION_ATTRIBUTE, OperationMark
from handler_host.workers.resource_errors import resource_error, resource_remedy

HOST = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
"""Directory of the package ``handler_host``."""
_json = msgspec.json.Encoder()
IMPORTLIB = os.path.dirname(os.path.abspath(importlib.__file__)) + os.sep

MAX_REASON = 4_000
"""Characters of a reason."""
MAX_TRACE = 32_000
"""Characters of a traceback: with the reason it fits into a frame, and the host learns the reason."""
CODE_MISTAKES = (ImportError, SyntaxError, NameError, AttributeError, TypeError)
"""Exceptions that a later activation raises again; others may come from a network or a file."""
STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator, Iterator, Iterable, Generator)
"""Return types of streaming operations; the first argument is the type of a chunk."""
Kind = typing.Literal["stream", "coroutine", "function", "iterator", "native"]
"""Form of an operation's method; ``native``: it takes and yields the bytes of a client's own protocol."""
PLAIN = (dict, list, str, bool, int)
"""Return types without further constraints: a value of exactly this type needs no check."""


class LoadError(Exception):
    """The handler cannot be loaded or activated."""

    def __init__(
        self,
        reason: str,
        trace: str = "",
        *,
        out_of_memory: bool = False,
        out_of_resources: bool = False,
        is_retryable: bool = False,
    ) -> None:
        reason = shorten(reason, MAX_REASON)
        super().__init__(reason)
        self.reason = reason
        self.trace = shorten(trace, MAX_TRACE)
        self.out_of_memory = out_of_memory
        self.out_of_resources = out_of_resources
        self.is_retryable = is_retryable
        """Whether a later activation may succeed without a change by a person."""


@dataclass(frozen=True)
class Operation:
    """An operation of a loaded handler."""

    info: OperationInfo
    method: Callable[..., Any]
    kind: Kind
    takes_request: bool
    takes_call: bool
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    """Encode a response, or a chunk of a stream; raises ``msgspec.ValidationError`` if it has not the declared type."""
    collect: Callable[[list[Any]], Any]
    encode_collected: Callable[[Any], bytes]
    """As ``encode``, for the result of ``collect``."""
    place: str
    """``file:line`` of the method, for messages."""


class Handler:
    """A loaded handler: its operations by name, and its hooks."""

    def __init__(self, target: object, operations: dict[str, Operation], hooks: pluggy.PluginManager) -> None:
        self.target = target
        self.operations = operations
        self._hooks = hooks

    async def run_hook(self, name: str, context: Context) -> None:
        """Run a hook, which may be a function or a coroutine function."""
        for result in getattr(self._hooks.hook, name)(context=context):
            if inspect.isawaitable(result):
                await result


def load(spec: WorkerSpec) -> Handler:
    """Import the entry point of ``spec``, and return its handler; raises :class:`LoadError`."""
    try:
        return _load(spec)
    except LoadError:
        raise
    except BaseException as error:
        raise load_error(f"{spec.entry_point} could not be created", error) from error


def _load(spec: WorkerSpec) -> Handler:
    target = _import(spec.entry_point, is_remote=spec.is_remote)
    if inspect.isclass(target):
        _check_constructor(target, spec.entry_point)
        target = target()
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


def _check_constructor(target: type, entry_point: str) -> None:
    """Raise :class:`LoadError` if the class cannot be called without arguments."""
    try:
        required = _required_parameters(target)
    except (TypeError, ValueError):
        return  # a class of C without a signature: the call shows whether it works
    if required:
        raise LoadError(
            f"{entry_point}{in_brackets(place_of(target))} takes the arguments {', '.join(required)}, but the host "
            "creates the handler without arguments; move the work of __init__ into activate(self, context), with "
            "settings from context.config"
        )


def _required_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [item.name for item in parameters if item.default is item.empty and item.kind not in variadic]


def load_error(what: str, error: BaseException) -> LoadError:
    """Return the error for an exception in the plugin: names its place, and removes the host's frames."""
    if isinstance(error, HostError):
        # The handler has written this message for its users: it is complete.
        return LoadError(str(error.message), is_retryable=error.retryable)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_plugin_code(frame.filename)]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):  # the module has not run, so the traceback has no frame of it
        where = f" ({error.filename}:{error.lineno})"
    refusal = resource_error(error)
    remedy = f"; {resource_remedy(refusal)}" if refusal is not None else _remedy(error)
    if isinstance(error, SystemExit):
        text = f"it called sys.exit({error.code!r})"
    else:
        text = f"{type(error).__name__}: {_text_of(error)}{remedy}".rstrip(": ")
    return LoadError(
        f"{what}: {text}{where}",
        plugin_traceback(error),
        out_of_memory=isinstance(error, MemoryError),
        out_of_resources=refusal is not None,
        is_retryable=refusal is not None or not (isinstance(error, CODE_MISTAKES) or remedy),
    )


def _remedy(error: BaseException) -> str:
    """Return the remedy for a missing package, or a KeyError of ``os.environ``, which has declared secrets only."""
    if isinstance(error, ModuleNotFoundError):
        return "; name its package in the dependencies of the plugin's pyproject.toml, and install the plugin again"
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, KeyError) or not frames or not error.args:
        return ""
    if frames[-1].filename not in ("<frozen os>", os.__file__) or frames[-1].name != "__getitem__":
        return ""
    return (
        f"; a worker sees only declared secrets of the host's environment: declare [secrets.{error.args[0]}] in "
        f"handler.toml, and read context.secrets[{error.args[0]!r}]"
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a plugin's exception may have any __str__
        return "the text of the exception is not available"


def plugin_traceback(error: BaseException) -> str:
    """Return the traceback of an exception without the frames of the host and of the import system."""
    return "".join(traceback.format_exception(type(error), error, _skip_own_frames(error.__traceback__)))


def _import(entry_point: str, *, is_remote: bool) -> Any:
    module_name, _, attributes = entry_point.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module_name == missing or module_name.startswith(f"{missing}.")):
            place, remedy = "", "package it, or correct the entry point in its pyproject.toml"
            if is_remote:
                place = f" on {os.uname().nodename} in {sys.prefix}"
                remedy = "install the plugin there, or have the engine do that (launchers.ray.runtime_env)"
            raise LoadError(
                f"the module {missing!r} of entry point {entry_point!r} is not installed{place}; {remedy}"
            ) from error
        raise load_error(f"{module_name} could not be imported", error) from error
    for attribute in filter(None, attributes.split(".")):
        if not hasattr(target, attribute):
            match = nearest(attribute, dir(target))
            hint = f"; did you mean {match!r}?" if match is not None else ""
            place = in_brackets(getattr(target, "__file__", None) or "")
            raise LoadError(
                f"{module_name}{place} has no {attribute!r}, which entry point {entry_point!r} names; "
                f"add it, or correct the entry point in its pyproject.toml{hint}"
            )
        target = getattr(target, attribute)
    return target


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
    """Raise :class:`LoadError` for an unknown hook, and for a hook with an unknown parameter."""
    where = f"{entry_point}{in_brackets(place_of(method))}"
    known = [hook for hook in vars(HandlerHooks) if not hook.startswith("_")]
    if name not in known:
        match = nearest(name, known)
        hint = f"; did you mean {match!r}?" if match is not None else f"; the hooks are {', '.join(known)}"
        raise LoadError(f"{where}: unknown hook {name!r}{hint}")
    available = inspect.signature(getattr(HandlerHooks, name)).parameters.keys() - {"self"}
    # pluggy passes nothing to parameters with a default, nor to * and **.
    required = _required_parameters(method)
    unknown = [word for word in required if word not in available]
    if unknown:
        raise LoadError(
            f"{where}: the hook {name!r} takes {', '.join(unknown)}, but the host passes only "
            f"{', '.join(sorted(available))}{did_you_mean(unknown[0], available)}"
        )


def _operation(method: Callable[..., Any], mark: OperationMark, entry_point: str) -> Operation:
    place = place_of(method)
    where = f"{entry_point}{in_brackets(place)}: operation {mark.name!r}"
    try:
        hints = typing.get_type_hints(method)
    except Exception as error:
        raise load_error(f"{where}: its annotations cannot be read", error) from error
    names = [name for name in inspect.signature(method).parameters if name != "call"]
    if len(names) > 1:
        raise LoadError(f"{where} takes {', '.join(names)}; it may take only the request, and 'call'")
    if mark.native:
        return _native_operation(method, mark, where)
    request = hints.get(names[0], Any) if names else Any
    response = hints.get("return", Any)
    kind: Kind = "function"
    if inspect.isasyncgenfunction(method):
        kind = "stream"
    elif inspect.iscoroutinefunction(method):
        kind = "coroutine"
    elif inspect.isgeneratorfunction(method):
        kind = "iterator"
    whole = chunk = response
    if typing.get_origin(response) in STREAMS:
        response = chunk = typing.get_args(response)[0]
        whole = _collected_type(mark, chunk)
    elif kind in ("stream", "iterator"):
        chunk = Any  # the annotation is the type of the collected response
    try:
        decoder = msgspec.json.Decoder(request)
    except TypeError as error:
        raise LoadError(f"{where}: its request type cannot be decoded from JSON: {error}") from error
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


def _native_operation(method: Callable[..., Any], mark: OperationMark, where: str) -> Operation:
    names = list(inspect.signature(method).parameters)
    if not inspect.isasyncgenfunction(method) or not set(names) - {"call"}:
        raise LoadError(
            f"{where} is not an asynchronous generator of one request; write "
            "`async def name(self, request: NativeRequest)`, and `yield` a NativeResponse and then bytes"
        )
    return Operation(
        info=OperationInfo(name=mark.name, summary=mark.summary, streams=True),
        method=method,
        kind="native",
        takes_request=True,
        takes_call="call" in names,
        decode=_same,
        encode=_same,
        collect=_same,
        encode_collected=_same,
        place=place_of(method),
    )


def _collected_type(mark: OperationMark, chunk: Any) -> Any:
    if mark.collect is None:
        return list[chunk]
    try:
        return typing.get_type_hints(mark.collect).get("return", Any)
    except Exception:  # noqa: BLE001 - annotations are optional: without them the result is not checked
        return Any


def _encoder(kind: Any) -> Callable[[Any], bytes]:
    """Return an encoder to JSON that raises ``msgspec.ValidationError`` for a value that is not of type ``kind``."""
    encode = _encode_json
    if kind is Any:
        return encode
    try:
        check = msgspec.json.Decoder(kind).decode
    except TypeError:  # the type cannot be decoded from JSON, and so not be checked
        return encode

    def checked(value: Any) -> bytes:
        data = encode(value)
        if kind not in PLAIN or type(value) is not kind:
            check(data)
        return data

    return checked


def _encode_json(value: Any) -> bytes:
    try:
        return _json.encode(value)
    except UnicodeEncodeError:
        return _json.encode(repair_texts(msgspec.to_builtins(value)))


def _same(value: Any) -> Any:
    return value


def _schema(kind: Any) -> dict[str, Any] | None:
    if kind is Any:
        return None
    try:
        return msgspec.json.schema(kind)
    except TypeError:
        return None


def _is_plugin_code(filename: str) -> bool:
    return not filename.startswith((HOST, IMPORTLIB, "<frozen ")) and f"{os.sep}pluggy{os.sep}" not in filename


def _skip_own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from its first frame outside the host on, or None if it has no such frame."""
    while trace is not None and not _is_plugin_code(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace
