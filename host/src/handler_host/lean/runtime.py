"""Lazy names at run time: found missing, imported, bound.

A rewritten module gets :data:`LAZY_BUILTINS` as its ``__builtins__``. CPython looks a
global name up in the module first and in its builtins next, and there
``__missing__`` makes the import and binds the name. So functions are not rewritten,
and after its first use a name costs what it always did. From outside
(``module.name``, ``from module import name``) it resolves by PEP 562.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import sys
import typing
from _thread import get_ident
from collections.abc import Callable, Collection, Iterable, Mapping
from opcode import opmap
from types import CodeType, FrameType, ModuleType
from typing import Any, TypeVar

from handler_host.lean.cache import Entry

FROM, ROOT, ALIAS = "from", "import", "as"
"""Kinds of a lazy name: ``from a import b``, ``import a.b`` (binds ``a``), ``import a.b as c``."""

LIVE = frozenset({"open", "print", "input", "breakpoint", "exit", "quit", "help"})
"""Builtins that are looked up at each use: tests patch them, and they are slow anyway."""

FailureCallback = Callable[[str, str, BaseException], None]
"""Called with the name, the module and the error of a deferred import that failed."""

_F = TypeVar("_F", bound=Callable[..., Any])

_failure_callbacks: list[FailureCallback] = []
_namespace_of: Callable[[ModuleType], dict[str, Any]] = vars(ModuleType)["__dict__"].__get__
_in_progress: set[tuple[int, int, str]] = set()
"""Thread, namespace and name of the imports in progress: an import that needs itself must fail, not recurse."""
_claims: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
"""By module: the packages that put their own name into ``__module__`` of its classes, and which classes."""


def hide_from_warnings(function: _F) -> _F:
    """Make ``stacklevel`` of a warning pass by the frames of a function, as by those of the import system.

    ``warnings`` knows the latter by these two words in the name of the file.
    """
    function.__code__ = _hidden_code(function.__code__)
    return function


@functools.cache  # one code object for the `__getattr__` of all modules
def _hidden_code(code: CodeType) -> CodeType:
    return code.replace(co_filename="<lean: as importlib._bootstrap>")


class ModuleState:
    """What is lazy in one module; kept as ``loader_state`` of its spec."""

    def __init__(self, module: ModuleType, entry: Entry, children: Iterable[str]) -> None:
        self.namespace = _namespace_of(module)
        self.table = dict(entry.table)
        self.copied = frozenset(entry.builtins)
        self.shadowed = frozenset(entry.shadowed) | frozenset(entry.hidden)
        self.owner = entry.owner
        self.exported = frozenset(entry.exported)
        self.own_getattr: Callable[[str], Any] | None = None
        """The ``__getattr__`` that the module itself defines."""
        self.children = frozenset(children) - frozenset(entry.hidden)
        self.own_children = self.children & _submodules(f"{self.namespace['__name__']}.", entry.table.values())
        """Submodules that the module's own deferred imports would have bound in it."""

    @hide_from_warnings
    def resolve(self, name: str) -> Any:
        """Import what ``name`` stands for, bind and return it; raises what the import raises."""
        key = (get_ident(), id(self.namespace), name)
        kind, module, attribute, line = self.table[name]
        if key in _in_progress:
            raise _circular(self.namespace, name, module)
        _in_progress.add(key)
        try:
            value = _import(self.namespace, kind, module, attribute)
        except BaseException as error:
            error.add_note(
                f"lazy import of {name!r} from {module!r}, written at {self.namespace.get('__file__')}:{line}"
            )
            for callback in _failure_callbacks:
                callback(name, module, error)
            raise
        finally:
            _in_progress.discard(key)
        if name in self.exported:
            set_module(value, self.owner)
        return self.namespace.setdefault(name, value)

    def is_importing(self, name: str) -> bool:
        """Return whether this thread is importing ``name`` right now."""
        return (get_ident(), id(self.namespace), name) in _in_progress

    def public_names(self) -> list[str]:
        """Return what ``import *`` binds without ``__all__``."""
        names = dict.fromkeys([*self.namespace, *self.table])
        return [name for name in names if not name.startswith("_") and name not in self.copied]


class LeanModule(ModuleType):
    """A rewritten module: behaves as if its lazy names were bound."""

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """Return the namespace; to :func:`typing.get_type_hints`, one in which lazy names resolve."""
        namespace = _namespace_of(self)
        # For a class it evaluates annotations with the module as *locals*, where no builtins are asked.
        if sys._getframe(1).f_code is _GET_TYPE_HINTS:
            state = state_of(namespace)
            if state is not None:
                return _Resolving(namespace, state)
        return namespace

    def __dir__(self) -> list[str]:
        namespace = _namespace_of(self)
        state = state_of(namespace)
        own = namespace.get("__dir__")
        if own is not None:
            names: list[str] = own()
            return names
        if state is None:
            return list(namespace)
        hidden = state.copied | {"__getattr__"} if state.own_getattr is None else state.copied
        return [name for name in dict.fromkeys([*namespace, *state.table]) if name not in hidden]

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            namespace = _namespace_of(self)
            state = state_of(namespace)
            # The import system binds each submodule in its package; the export of that name came later, and won,
            # or the package deleted the name.
            if state is not None and name in state.shadowed and value.__name__ == f"{namespace['__name__']}.{name}":
                return
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        namespace = _namespace_of(self)
        state = state_of(namespace)
        if state is not None and state.table.pop(name, None) is not None and name not in namespace:
            return
        super().__delattr__(name)


class _Resolving(dict[str, Any]):
    """A copy of a namespace in which lazy names resolve."""

    def __init__(self, namespace: Mapping[str, Any], state: ModuleState) -> None:
        super().__init__(namespace)
        self._state = state

    def __missing__(self, name: str) -> Any:
        if name in self._state.table:
            return self._state.resolve(name)
        raise KeyError(name)


class LazyBuiltins(dict[str, Any]):
    """The builtins of rewritten modules; asked last, they resolve the lazy names of the module that asks."""

    @hide_from_warnings
    def __missing__(self, name: str) -> Any:
        state = state_of(sys._getframe(1).f_globals)
        if state is not None and name in state.table:
            try:
                return state.resolve(name)
            except KeyError as error:
                # The interpreter takes a KeyError for "no such name", and would report a NameError.
                raise ImportError(f"importing {name!r} raised {type(error).__name__}: {error}") from error
        return _BUILTINS[name]


def state_of(namespace: Mapping[str, Any]) -> ModuleState | None:
    """Return what is lazy in the module with this namespace, or None."""
    state = getattr(namespace.get("__spec__"), "loader_state", None)
    return state if type(state) is ModuleState else None


@hide_from_warnings
def execute(module: ModuleType, entry: Entry, children: Iterable[str]) -> None:
    """Run the code of a rewritten module in it."""
    spec = module.__spec__
    if spec is None:  # pragma: no cover - the import system always sets one
        raise ImportError(f"{module.__name__} has no spec")
    namespace = _namespace_of(module)
    previous = namespace.get("__getattr__")
    if getattr(previous, "is_lean", False):
        del namespace["__getattr__"]
    for name in entry.table:
        # A reload makes the imports again.
        namespace.pop(name, None)
    state = ModuleState(module, entry, children)
    spec.loader_state = state
    if state.table or state.children:
        module.__class__ = LeanModule
        namespace["__getattr__"] = early = _make_getattr(state)
        if state.table:
            namespace["__builtins__"] = LAZY_BUILTINS
            namespace.update({name: _BUILTINS[name] for name in entry.builtins})
    else:
        early = None
    for name, claimed in entry.claims.items():
        _claims.setdefault(name, []).append((entry.owner, claimed))
    exec(entry.code, namespace)  # noqa: S102 - the code of the module itself
    own = namespace.get("__getattr__")
    if early is not None and own is not early:
        state.own_getattr = own
        namespace["__getattr__"] = early


def adopt(module: ModuleType, children: Collection[str]) -> None:
    """Make submodules of a package that runs as it is written reachable, as eager imports elsewhere would have."""
    spec = module.__spec__
    if spec is None or spec.loader_state is not None or not children:
        return
    state = ModuleState(module, Entry(None, {}, (), (), (), "", (), {}), children)
    spec.loader_state = state
    namespace = _namespace_of(module)
    state.own_getattr = namespace.get("__getattr__")
    namespace["__getattr__"] = _make_getattr(state)


def observe_failures(callback: FailureCallback) -> None:
    """Call ``callback`` for each deferred import that fails from now on."""
    _failure_callbacks.append(callback)


def name_owners(module: ModuleType) -> None:
    """Set ``__module__`` of what other packages export from a module that has just run, as they would have."""
    namespace = _namespace_of(module)
    for owner, names in _claims.get(module.__name__, ()):
        for name in names:
            if name in namespace:
                set_module(namespace[name], owner)


def set_module(value: Any, owner: str) -> None:
    """Set ``__module__`` of an export as its package would have."""
    try:
        value.__module__ = owner
    except (TypeError, AttributeError):
        return


def _submodules(prefix: str, rows: Iterable[tuple[str, str, str | None, int]]) -> set[str]:
    """Return the submodules that the rows of a table import, of the package with this prefix (``package.``)."""
    modules = [module for _, names, _, _ in rows for module in names.split()]
    return {module.removeprefix(prefix).partition(".")[0] for module in modules if module.startswith(prefix)}


def _bound_names(names: Iterable[str], namespace: Mapping[str, Any]) -> list[str]:
    return [name for name in names if name in namespace]


@hide_from_warnings
def _import(namespace: dict[str, Any], kind: str, name: str, attribute: str | None) -> Any:
    """Make an import as the statement would; names of modules are absolute."""
    if kind == ROOT:
        root = None
        for module_name in name.split():
            root = importlib.__import__(module_name, namespace, None, (), 0)
        return root
    if kind == ALIAS:
        module = importlib.__import__(name, namespace, None, (), 0)
        path = module.__name__
        for part in name.split(".")[1:]:
            path = f"{path}.{part}"
            module = _attribute(module, part, path)
        return module
    if attribute is None:  # pragma: no cover - the rewriter writes none
        raise ImportError(f"no attribute to import from {name}")
    module = importlib.__import__(name, namespace, None, (attribute,), 0)
    return _attribute(module, attribute, f"{name}.{attribute}")


@hide_from_warnings
def _attribute(module: ModuleType, attribute: str, path: str) -> Any:
    """Return what ``from module import attribute`` binds."""
    try:
        return getattr(module, attribute)
    except AttributeError:
        if path in sys.modules:
            return sys.modules[path]
        file = getattr(module, "__file__", None)
        raise ImportError(
            f"cannot import name {attribute!r} from {module.__name__!r} ({file or 'unknown location'})",
            name=module.__name__,
            path=file,
        ) from None


def _circular(namespace: Mapping[str, Any], name: str, module: str) -> ImportError:
    return ImportError(
        f"cannot import name {name!r} into {namespace.get('__name__')!r}: its import of {module!r} needs the name "
        "itself (a circular import)",
        name=module,
    )


def _make_getattr(state: ModuleState) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for the module.

    It looks for lazy names, submodules that the module's own deferred imports would have bound, then asks the
    module's own ``__getattr__``, and then looks for submodules that deferred imports of others would have bound.
    """
    package = state.namespace["__name__"]

    @hide_from_warnings
    def __getattr__(name: str) -> Any:  # noqa: N807 - PEP 562
        if name in state.table and not state.is_importing(name):
            return state.resolve(name)
        if name == "__all__" and _is_star_import(sys._getframe(1)):
            return state.public_names()
        path = f"{package}.{name}"
        is_unloaded_child = name in state.children and path not in sys.modules
        if state.own_getattr is not None and not (is_unloaded_child and name in state.own_children):
            try:
                return state.own_getattr(name)
            except AttributeError:
                if not is_unloaded_child:
                    raise
        failure = None
        if is_unloaded_child:
            try:
                return importlib.import_module(path)
            except ImportError as error:
                if name in state.own_children:
                    raise
                failure = error  # an eager import would have left it unbound
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name) from failure

    __getattr__.is_lean = True  # type: ignore[attr-defined]
    return __getattr__


def _is_star_import(frame: FrameType) -> bool:
    """Return whether the frame is at ``from module import *``, which asks for ``__all__`` first."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if at < 0:
        return False
    if _IMPORT_STAR is not None:
        return code[at] == _IMPORT_STAR
    return code[at] == _CALL_INTRINSIC_1 and code[at + 1] == _INTRINSIC_IMPORT_STAR


_IMPORT_STAR = opmap.get("IMPORT_STAR")
"""Python 3.11; later versions have an intrinsic function."""
_CALL_INTRINSIC_1 = opmap.get("CALL_INTRINSIC_1")
_INTRINSIC_IMPORT_STAR = 2

_GET_TYPE_HINTS = typing.get_type_hints.__code__
_BUILTINS = vars(builtins)
LAZY_BUILTINS = LazyBuiltins({name: value for name, value in _BUILTINS.items() if name not in LIVE})
LAZY_BUILTINS["__lean_bound__"] = _bound_names
