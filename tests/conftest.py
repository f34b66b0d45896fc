"""What holds for every test of the project."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# No deadline per example: on a busy machine it fails tests whose code is right.
settings.register_profile("handler-host", deadline=None)
settings.load_profile("handler-host")


@pytest.fixture(scope="session", autouse=True)
def _environment_of_the_caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide what the caller's environment would change: the host's own settings, proxies between loopback ends, data.

    What a host learns, and what handlers keep, is not to be found by the caller's own.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("HANDLER_HOST_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("xdg-data")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _processes_that_ctrl_c_ends() -> Iterator[None]:
    """Start processes with SIGINT as a terminal's shell does.

    What a script starts in the background (`nohup make test &`) ignores it, and so would all that tests start.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
