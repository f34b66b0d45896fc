"""Signals that only the host acts on, also when they reach all processes: workers and fork server ignore them.

Heroku and some inits of containers send SIGTERM to every process at once, ``systemctl kill`` any signal. The
host drains on SIGTERM, and needs its workers for that; it stops them by their channels.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

HOST_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def host_signals_blocked() -> Iterator[None]:
    """Block the signals in a process that is started meanwhile, until it calls :func:`ignore_host_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HOST_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_host_signals() -> None:
    """Ignore the signals in this process, but not in programs that it starts."""
    for number in HOST_SIGNALS:
        # Not SIG_IGN, which programs inherit: a plugin could then not terminate what it has started.
        signal.signal(number, _ignore)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HOST_SIGNALS)


def restore_host_signals() -> None:
    """Restore the default actions, unless the plugin has set its own: for a process that the plugin has forked."""
    for number in HOST_SIGNALS:
        if signal.getsignal(number) is _ignore:
            signal.signal(number, signal.SIG_DFL)


def _ignore(number: int, frame: object) -> None:
    """Ignore a signal."""
