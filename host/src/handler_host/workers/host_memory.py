"""Keep other processes of the same user out of the memory of the host, which has the secrets of all handlers."""

from __future__ import annotations

import ctypes

PR_SET_DUMPABLE = 4


def protect_memory() -> None:
    """Refuse ``ptrace``, ``/proc/PID/mem`` and ``/proc/PID/environ`` of this process, and core dumps (Linux).

    Only root may still read them. The host measures itself as before.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
