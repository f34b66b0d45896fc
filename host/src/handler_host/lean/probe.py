"""One run of the checker, in a process of its own: import a package, write down what is there then.

``python -m handler_host.lean.probe RESULT eager PACKAGE`` or ``... RESULT lazy PACKAGE PACKAGES EAGER NAMES CACHE``.
"""

from __future__ import annotations

import abc
import asyncio
import atexit
import builtins
import copyreg
import functools
import http.client
import importlib
import json
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import traceback
import typing
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from json import dumps, loads  # a package may replace them in the module
from pathlib import Path
from types import ModuleType
from typing import Any

from handler_host.lean.import_hook import install

WATCHED = (builtins, os, sys, socket, ssl, json, asyncio, typing, logging, http.client, threading, warnings)
"""Modules of the standard library whose attributes packages are known to replace."""
NOT_EFFECTS = frozenset({"_", "__warningregistry__", "last_traceback", "modules", "path_importer_cache"})


class Recorder:
    """A finder that writes down which modules are executed, by whose import, and with which effects."""

    def __init__(self) -> None:
        self.exit_functions: list[str] = []
        """Those of other modules than the one that registers them: it does not need its own before it runs."""
        self._changes: dict[str, dict[str, Counter[Any]]] = {}
        self.importers: dict[str, str | None] = {}
        self.failures: dict[str, str] = {}
        """By module: what its execution raised. Its importer may have handled that."""
        self.registrations: list[str] = []
        self._stack: list[str] = []
        self._last: dict[str, Any] = {}
        self._watch_registrations()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Find a module by the finders behind this one, and wrap the execution of its source."""
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    if isinstance(spec.loader, SourceFileLoader):
                        loader: Any = spec.loader
                        loader.exec_module = self._recorded(fullname, loader.exec_module)
                    return spec
        return None

    def start(self) -> None:
        """Watch from now on."""
        self._last = self._state()
        sys.meta_path.insert(0, self)

    def _recorded(self, name: str, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def exec_module(module: ModuleType) -> None:
            self._note()
            self.importers.setdefault(name, self._stack[-1] if self._stack else None)
            self._stack.append(name)
            try:
                execute(module)
            except BaseException as error:
                self.failures[name] = f"{type(error).__name__}: {error}"[:300]
                raise
            finally:
                self._note()
                self._stack.pop()

        return exec_module

    def _note(self) -> None:
        """Attribute what has changed since the last look to the module that was running."""
        state = self._state()
        if self._stack:
            for key, value in state.items():
                if value != self._last[key]:
                    changes = self._changes.setdefault(self._stack[-1], {}).setdefault(key, Counter())
                    changes.update(_items(value))
                    changes.subtract(_items(self._last[key]))
        self._last = state

    @property
    def effects(self) -> dict[str, list[str]]:
        """By module: what its execution has changed, without what it has put back (``with catch_warnings()``)."""
        return {
            module: [key for key, counts in changes.items() if any(counts.values())]
            for module, changes in self._changes.items()
            if any(any(counts.values()) for counts in changes.values())
        }

    def _state(self) -> dict[str, Any]:
        counts = {"registrations": len(self.registrations), "exit functions": len(self.exit_functions)}
        return {**cheap_state(), **counts}

    def _watch_registrations(self) -> None:
        at_exit = atexit.register

        def register_exit(function: Any, *arguments: Any, **options: Any) -> Any:
            if not _is_own(function, self._stack):
                self.exit_functions.append(_label(function))
            return at_exit(function, *arguments, **options)

        atexit.register = register_exit  # type: ignore[assignment]
        register = abc.ABCMeta.register
        single = functools.singledispatch

        def register_class(cls: Any, subclass: Any) -> Any:
            if not _is_own(cls, self._stack):
                self.registrations.append(f"{_label(cls)}.register({_label(subclass)})")
            return register(cls, subclass)

        def dispatch(function: Any) -> Any:
            wrapper: Any = single(function)
            add = wrapper.register

            def register_function(cls: Any, func: Any = None) -> Any:
                if self._stack and getattr(function, "__module__", "") != self._stack[-1]:
                    self.registrations.append(f"{_label(function)}.register({_label(cls)})")
                return add(cls, func)

            wrapper.register = register_function
            return wrapper

        abc.ABCMeta.register = register_class  # type: ignore[method-assign]
        functools.singledispatch = dispatch  # type: ignore[assignment]


def cheap_state() -> dict[str, Any]:
    """Return what an import may change for others, as far as it can be looked at in microseconds."""
    root = logging.getLogger()
    return {
        "environment": tuple(sorted(os.environ.items())),
        # With their places from the end, because a filter that is set again moves to the front.
        "warnings filters": tuple(enumerate(map(str, reversed(warnings.filters)))),
        "pickle reducers": tuple(sorted(map(str, copyreg.dispatch_table))),
        "log handlers": tuple(type(handler).__name__ for handler in root.handlers),
        "log level": (root.level, logging.root.manager.disable),
        "log classes": _label(logging.getLoggerClass()) + _label(logging.getLogRecordFactory()),
        "signals": tuple(str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)),
        "import path": (tuple(sys.path), len(sys.path_hooks)),
        "hooks": (sys.excepthook is sys.__excepthook__, _label(sys.displayhook)),
        "recursion limit": sys.getrecursionlimit(),
        "threads": threading.active_count(),
        "working directory": _working_directory(),
        **{f"attributes of {module.__name__}": _identities(module) for module in WATCHED},
    }


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""  # it was removed


def _identities(module: ModuleType) -> tuple[Any, ...]:
    names = sorted(key for key in vars(module) if key not in NOT_EFFECTS)
    # Submodules come by being imported, from anywhere.
    return tuple((key, id(vars(module)[key])) for key in names if callable(vars(module)[key]))


def final_state(recorder: Recorder) -> dict[str, Any]:
    """Return the state in a form that can be compared between processes."""
    state: dict[str, Any] = {
        key: loads(dumps(value, default=str))
        for key, value in cheap_state().items()
        if not key.startswith("attributes of ")
    }
    state["registrations"] = sorted(recorder.registrations)
    state["exit functions"] = sorted(recorder.exit_functions)
    for module in WATCHED:
        state[f"attributes of {module.__name__}"] = sorted(
            f"{key}: {_label(value)}"
            for key, value in vars(module).items()
            if callable(value) and key not in NOT_EFFECTS
        )
    return state


def names_of(modules: dict[str, ModuleType]) -> dict[str, dict[str, list[str]]]:
    """Return what each name of each module is bound to."""
    return {
        name: {
            key: describe(value)
            for key, value in list(vars(module).items())
            # Not the names that pydantic makes up for generic models ("Page[int]"), nor variables of loops ("__name").
            if key.isidentifier() and not key.startswith("__")
        }
        for name, module in modules.items()
    }


def describe(value: Any) -> list[str]:
    """Return the kind of a value, the module that it names as its own, and its name."""
    if isinstance(value, ModuleType):
        return ["module", "", value.__name__]
    name = getattr(value, "__qualname__", None)
    module = getattr(value, "__module__", None)
    return [type(value).__name__, str(module) if isinstance(name, str) else "", name if isinstance(name, str) else ""]


def _items(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def _label(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"


def _is_own(cls: Any, stack: list[str]) -> bool:
    return not stack or getattr(cls, "__module__", "") == stack[-1]


def modules_of(package: str) -> dict[str, ModuleType]:
    """Return the modules of a package that are loaded from source files."""
    return {
        name: module
        for name, module in list(sys.modules.items())
        if (name == package or name.startswith(f"{package}."))
        and (getattr(module, "__file__", None) or "").endswith(".py")
    }


def run_eager(package: str) -> dict[str, Any]:
    """Import the package as it is."""
    recorder = Recorder()
    recorder.start()
    try:
        importlib.import_module(package)
    except BaseException:  # noqa: BLE001 - a package may raise anything, and it is the result
        return {"error": traceback.format_exc(limit=-3)}
    return {
        "effects": recorder.effects,
        "importers": recorder.importers,
        "failures": recorder.failures,
        "state": final_state(recorder),
        "names": names_of(modules_of(package)),
    }


def run_lazy(
    package: str, packages: list[str], eager: list[str], names: dict[str, list[str]], cache: Path
) -> dict[str, Any]:
    """Import the package lazily, note its state, and then look each name up that the eager run had."""
    installed = install(packages, eager=eager, cache=cache)
    if package not in installed.lean:
        return {"error": installed.eager[package]}
    recorder = Recorder()
    recorder.start()
    try:
        importlib.import_module(package)
    except BaseException as error:  # noqa: BLE001 - it is the result
        return {"error": traceback.format_exc(limit=-3), "failures": [_failure(error)]}
    executed, effects, state = list(recorder.importers), recorder.effects, final_state(recorder)
    found: dict[str, Any] = {}
    failures = []
    for name, keys in names.items():
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - it is the result
            found[name] = repr(error)[:300]
            failures.append(_failure(error))
            continue
        found[name] = {}
        for key in keys:
            try:
                found[name][key] = describe(getattr(module, key))
            except BaseException as error:  # noqa: BLE001 - it is the result
                # The runtime adds a note to what a deferred import raises, which may be an AttributeError, too.
                is_unbound = isinstance(error, AttributeError) and not hasattr(error, "__notes__")
                found[name][key] = ["unbound" if is_unbound else "error", "", repr(error)[:300]]
                if not is_unbound:
                    failures.append(_failure(error, name))
    return {"effects": effects, "executed": executed, "state": state, "names": found, "failures": failures}


def _failure(error: BaseException, *importers: str) -> tuple[str, list[str]]:
    """Return an error, and the modules whose code was running when it was raised, the innermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return repr(error)[:300], [*(frame.f_globals.get("__name__", "") for frame in reversed(frames)), *importers]


def main(arguments: list[str]) -> None:
    """Run as the arguments say, and write the result as JSON."""
    result, mode, package = arguments[:3]
    if mode == "eager":
        found = run_eager(package)
    else:
        names = loads(Path(arguments[5]).read_text())
        found = run_lazy(package, loads(arguments[3]), loads(arguments[4]), names, Path(arguments[6]))
    Path(result).write_text(dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
