"""Compile the packages of one handler, or report which are compiled: a process of its own, for a program that serves.

``python -m handler_host.lean.background`` reads one line of JSON (:class:`Job`) from standard input and writes
one of JSON (:class:`Result`). It ends when its standard input closes, so that it does not survive its parent.
"""

from __future__ import annotations

import json
import os
import resource
import site
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from handler_host.lean import native
from handler_host.lean.cache import CacheError, directories_of
from handler_host.lean.compiler import PackageMissing, compile_package
from handler_host.lean.import_hook import open_package
from handler_host.lean.requirement import select_packages

MAX_CPU_S = 900
"""CPU seconds of one process; litellm and what it needs take 40 to 70."""

MAX_DATA_BYTES = 512 * 1024 * 1024
"""Memory of one process; litellm takes 77 MB."""


class Job(NamedTuple):
    """What to compile."""

    requirements: list[str]
    """Checked versions, as in ``[lean] packages``."""
    eager: list[str]
    any_version: bool
    paths: list[str]
    """Site directories to add to the import path."""
    cache: str | None
    """Directory of the compiled code instead of the default ones."""
    fallback_cache: str | None
    """Directory to use if none of the others can be written."""
    compile: bool
    """False: only report."""
    is_background: bool
    """Use CPU that nobody else wants, and half of one CPU at most."""


class Result(NamedTuple):
    """Packages by what they are now."""

    lean: list[str]
    compiled: list[str]
    """Those of ``lean`` that this run has compiled."""
    eager: dict[str, str]
    """Packages that stay eager, and why."""


def run_job(job: Job) -> Result:
    """Compile what is not compiled yet."""
    selection = select_packages(job.requirements, any_version=job.any_version)
    result = Result([], [], dict(selection.unchecked))
    if native.is_supported():
        return result._replace(lean=list(selection.packages))
    directories = directories_of(job.cache, job.fallback_cache)
    pause = _Pause() if job.is_background else None
    for name, version in selection.packages.items():
        try:
            open_package(directories, name, version, job.eager)
        except CacheError as error:
            if not job.compile:
                result.eager[name] = str(error)
                continue
            try:
                compile_package(name, version=version, eager=job.eager, cache=directories, on_module=pause)
            except (CacheError, PackageMissing) as failure:
                result.eager[name] = f"cannot be compiled: {failure}"
                continue
            except MemoryError:
                result.eager[name] = "cannot be compiled: not enough memory"
                continue
            result.compiled.append(name)
        result.lean.append(name)
    return result


class _Pause:
    """Sleeps as long as the process has computed, since a CPU quota counts idle priority like any other."""

    def __init__(self) -> None:
        self._used = time.process_time()

    def __call__(self) -> None:
        used = time.process_time()
        time.sleep(used - self._used)
        self._used = used


def _limit_process() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
    os.nice(19)
    with suppress(OSError, AttributeError):  # AttributeError: not on macOS
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_parent() -> None:
    """Exit when standard input closes."""
    sys.stdin.read()
    os._exit(1)


def _add_site_directories(paths: list[str]) -> None:
    for path in reversed(paths):
        before = list(sys.path)
        site.addsitedir(path)
        sys.path[:] = [*(entry for entry in sys.path if entry not in before), *before]


def main() -> None:
    """Run the job of the first line of standard input."""
    job = Job(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if job.is_background:
        _limit_process()
    _add_site_directories(job.paths)
    sys.stdout.write(json.dumps(run_job(job)._asdict()) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the thread holds the lock of standard input, for which the interpreter's shutdown would wait


if __name__ == "__main__":
    main()
