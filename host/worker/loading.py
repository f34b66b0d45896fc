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
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec
import pluggy

from host.channel.wire import OperationInfo, WorkerSpec
from host.errors import HostError
from host.plugin import OPERATION_ATTRIBUTE, PROJECT, Context, HandlerHooks, OperationMark
from host.suggest import nearest

HOST = os.path.dirname(os.path.abspath(__file__)) + os.sep
IMPORTLIB = os.path.dirname(os.path.abspath(importlib.__file__)) + os.sep


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
    collect: Callable[[list[Any]], Any]


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
            f"{spec.entry_point} has no operation: mark a method with @host.plugin.operation, "
            "or derive the class from host.chat.ChatHandler"
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
            raise LoadError(f"the module {error.name!r} of entry point {entry_point!r} is not installed") from error
        raise failed(f"{module_name} could not be imported", error) from error
    except BaseException as error:
        raise failed(f"{module_name} could not be imported", error) from error
    for attribute in filter(None, attributes.split(".")):
        if not hasattr(found, attribute):
            hint = nearest(attribute, dir(found))
            meant = f"; did you mean {hint!r}?" if hint is not None else ""
            raise LoadError(f"{module_name} has no {attribute!r}, which entry point {entry_point!r} names{meant}")
        found = getattr(found, attribute)
    return found


def _hooks(target: object, entry_point: str) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HandlerHooks)
    try:
        manager.register(target)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        known = [name for name in vars(HandlerHooks) if not name.startswith("_")]
        marked = (name for name in dir(target) if manager.parse_hookimpl_opts(target, name) is not None)
        wrong = next((name for name in marked if name not in known), None)
        if wrong is None:
            raise LoadError(f"{entry_point}: {' '.join(str(error).split())}") from error
        hint = nearest(wrong, known)
        meant = f"; did you mean {hint!r}?" if hint is not None else f"; the hooks are {', '.join(known)}"
        raise LoadError(f"{entry_point}: there is no hook {wrong!r}{meant}") from error
    return manager


def _operation(method: Callable[..., Any], mark: OperationMark, entry_point: str) -> Operation:
    where = f"{entry_point}: operation {mark.name!r}"
    try:
        hints = typing.get_type_hints(method)
    except Exception as error:
        raise failed(f"{where}: its annotations cannot be read", error) from error
    names = [name for name in inspect.signature(method).parameters if name != "call"]
    if len(names) > 1:
        raise LoadError(f"{where} takes {', '.join(names)}; it may take the request, and 'call'")
    request = hints.get(names[0], Any) if names else Any
    answer = hints.get("return", Any)
    streams = inspect.isasyncgenfunction(method)
    if typing.get_origin(answer) in (AsyncIterator, AsyncIterable, Iterator):
        answer = typing.get_args(answer)[0]
    kind: typing.Literal["stream", "coroutine", "function", "iterator"] = "function"
    if streams:
        kind = "stream"
    elif inspect.iscoroutinefunction(method):
        kind = "coroutine"
    elif inspect.isgeneratorfunction(method):
        kind = "iterator"
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
            output_schema=_schema(answer),
        ),
        method=method,
        kind=kind,
        takes_request=bool(names),
        takes_call="call" in inspect.signature(method).parameters,
        decode=decoder.decode,
        encode=msgspec.json.Encoder().encode,
        collect=mark.collect or _same,
    )


def _same(pieces: list[Any]) -> Any:
    return pieces


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
