"""Errors raised when the system refuses a thread, a process, memory or a descriptor.

A worker imports this module at its start: without descriptors it could not import it when it is needed.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType

from handler_host._internal.threads import is_refused
from handler_host.plugin.errors import OutOfResources

RESOURCE_ERRNOS = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
"""Errors of a system that has no process, memory or file descriptor left."""


def out_of_resources(what: str, error: OSError) -> OutOfResources:
    """Return the error for a system that refused ``what``."""
    text = f"the system refused {what}: {os.strerror(error.errno or 0)}; {resource_remedy(error)}"
    return OutOfResources(text, retry_after=1.0)


def resource_remedy(error: OSError) -> str:
    """Return the remedy for a refused resource."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise ulimit -n"
    if error.filename is not None and error.errno not in RESOURCE_ERRNOS:
        return f"check whether this user may run {error.filename}"
    return "raise ulimit -u, or free memory"


def resource_error(error: BaseException) -> OSError | None:
    """Return the error if the system has refused a thread, a process, memory or a descriptor, else None."""
    if is_refused(error):
        return OSError(errno.EAGAIN, "")
    if not isinstance(error, OSError) or error.errno not in RESOURCE_ERRNOS:
        return None
    if error.errno == errno.EAGAIN and not _starts_processes(error.__traceback__):
        return None
    return error


def _starts_processes(trace: TracebackType | None) -> bool:
    """Return whether a module raised that starts processes: EAGAIN of others is a busy lock, file or socket."""
    raised_in = ""
    while trace is not None:
        raised_in = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return raised_in.partition(".")[0] in ("subprocess", "multiprocessing", "pty")
