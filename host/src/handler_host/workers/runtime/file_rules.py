"""The files that a confined worker reads and writes: those of Python, of its plugin and of its handler."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from handler_host.channel import frames

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store", "/proc", "/sys"),
    *("/run/systemd/resolve", "/run/resolvconf", "/run/nscd", "/run/opengl-driver"),
)
"""Programs, libraries, data of time zones; facts about processes and the machine."""
SETTINGS_OF_THE_SYSTEM = (
    *("alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "fonts", "gai.conf", "group"),
    *("host.conf", "hostname", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "locale.alias"),
    *("machine-id", "mime.types", "networks", "nsswitch.conf", "nvidia", "OpenCL", "os-release", "passwd", "pki"),
    *("protocols", "resolv.conf", "services", "ssl", "ssl1.1", "static", "timezone", "vulkan"),
)
"""The entries of ``/etc`` that libraries read. Not all of it: it has the configuration of the host as well."""
DEVICES = ("null", "zero", "full", "random", "urandom", "shm", "dri", "kfd")
"""Not terminals: those of the same user show what the operator types."""
GRAPHICS = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps", "nvidia")
"""The starts of names of further devices, with which processors of graphics compute."""
PATH_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "VIRTUAL_ENV")
"""Variables with directories that a worker reads."""
FILE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
MAX_RELATIVE_PATH = 200
"""Characters of a setting that may be a path below the working directory; longer ones are prompts."""
MAX_SETTINGS = 1_000
"""Settings in which paths are looked for."""


@cache
def shared_paths() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what all workers of this interpreter read, and what they write; the fork server finds it once."""
    paths = [*SYSTEM, *(f"/etc/{name}" for name in SETTINGS_OF_THE_SYSTEM)]
    paths += [sys.prefix, sys.exec_prefix, sys.base_prefix, *sys.path, *_editable_directories()]
    devices = [*DEVICES]
    with suppress(OSError):
        devices += [name for name in os.listdir("/dev") if name.startswith(GRAPHICS)]
    # Resolved: on most systems /bin and /lib are links into /usr.
    return _top_paths(map(os.path.realpath, filter(os.path.exists, paths))), tuple(f"/dev/{name}" for name in devices)


def readable_paths(spec: frames.WorkerSpec) -> tuple[str, ...]:
    """Return what the worker reads: system, Python, packages, caches, and what the configuration adds."""
    environment = spec.environment
    paths = [*shared_paths()[0], *spec.paths]
    if spec.paths:
        # They were added as site directories, and may name further ones.
        paths += [*sys.path, *_editable_directories()]
    for name in PATH_VARIABLES:
        paths += environment.get(name, "").split(os.pathsep)
    paths += [environment.get(name, "") for name in FILE_VARIABLES]
    home = environment.get("HOME", "")
    paths.append(environment.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home.startswith("/") else ""))
    if spec.lean is not None:
        paths += [path for path in (spec.lean.cache, spec.lean.fallback_cache) if path is not None]
    return _top_paths([*paths, *map(os.path.expanduser, spec.read_paths)])


def writable_paths(spec: frames.WorkerSpec) -> tuple[str, ...]:
    """Return what the worker reads and writes: its data, temporary files, and paths that its own settings name."""
    temporary = spec.environment.get("TMPDIR")
    paths = [*shared_paths()[1], *([temporary] if temporary else ["/tmp", "/var/tmp"])]  # noqa: S108 - of tempfile
    if spec.data_dir is not None:
        # A rule needs the directory, and afterwards only the host could make it.
        with suppress(OSError):
            os.makedirs(spec.data_dir, mode=0o700, exist_ok=True)
        paths.append(spec.data_dir)
    paths += filter(None, map(_path_of_setting, _texts([spec.config, spec.secrets])))
    return _top_paths([*paths, *map(os.path.expanduser, spec.write_paths)])


def packages_without_bytecode() -> list[str]:
    """Return the imported packages whose bytecode is missing, by name: a confined worker cannot write it."""
    if sys.dont_write_bytecode:
        return []
    names: list[str] = []
    for name, module in list(sys.modules.items()):
        if "." not in name and name not in sys.stdlib_module_names:
            cached = getattr(getattr(module, "__spec__", None), "cached", None)
            if isinstance(cached, str) and not os.path.exists(cached):
                names.append(name)
    return sorted(names)


def _top_paths(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the absolute paths, without those below a path before them."""
    top: dict[str, None] = {}
    for path in paths:
        if path.startswith("/") and not any(parent in top for parent in _parents(path)):
            top[path.rstrip("/") or "/"] = None
    return tuple(top)


def _parents(path: str) -> Iterator[str]:
    """Yield an absolute path and those above it, without the root."""
    while path := path.rstrip("/"):
        yield path
        path = path[: path.rindex("/")]


def _editable_directories() -> Iterator[str]:
    """Yield the directories of packages that are installed in place, from the finders of setuptools."""
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            mapping: Mapping[str, str] = getattr(module, "MAPPING", {})
            yield from mapping.values()


def _path_of_setting(text: str) -> str | None:
    """Return the path that a setting names; a relative one only if it is a file of the working directory."""
    if text.startswith(("/", "~/")):
        # The root of all files is the start of a URL rather than a path that an operator gives to a plugin.
        return os.path.expanduser(text) if text != "/" else None
    if 0 < len(text) <= MAX_RELATIVE_PATH and "\0" not in text and os.path.isfile(text):
        return os.path.abspath(text)
    return None


def _texts(values: list[Any]) -> Iterator[str]:
    """Yield the texts in nested settings, without recursion."""
    for _ in range(MAX_SETTINGS):
        if not values:
            return
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            values.extend(value.values())
        elif isinstance(value, list | tuple):
            values.extend(value)
