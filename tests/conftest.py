"""Fixtures for every test of the project."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from handler_host.testing.processes import LEAN_VARIABLE

# No deadline per example: on a busy machine it fails tests whose code is right.
settings.register_profile("handler-host", deadline=None)
# For the inner loop, other Pythons and other event loops: fewer examples than in CI, the same each time.
settings.register_profile("quick", settings.get_profile("ci"), deadline=None, max_examples=20)
settings.load_profile("handler-host")


@pytest.fixture(scope="session", autouse=True)
def _environment_of_the_caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the caller's settings of the host, proxies and data directories.

    The tests' hosts must neither read nor write the state of a host that the caller runs.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name == LEAN_VARIABLE:
                continue  # chooses between lean and eager imports for a whole run
            if name.startswith("HANDLER_HOST_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("xdg-data")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        # Compiling the SDKs takes minutes, of each host that a test starts; tests of the compiler enable it.
        patch.setenv("HANDLER_HOST_WORKERS__COMPILE_LEAN", "false")
        # Other processes of the machine may be short of memory for a moment; tests of pressure make their own.
        patch.setenv("HANDLER_HOST_MEMORY__PRESSURE", "off")
        yield


@pytest.fixture(scope="session", autouse=True)
def _default_sigint() -> Iterator[None]:
    """Handle SIGINT as under a terminal's shell.

    A shell makes background jobs (`nohup make test &`) ignore SIGINT, and the tests' processes would inherit that.
    """
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
