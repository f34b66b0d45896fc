"""Base of the conformance classes: one worker for all tests of a class, which must survive them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, ClassVar

from handler_host.plugin.errors import HostError, InvalidInput
from handler_host.testing.processes import WorkerUnderTest, worker_under_test


class Conformance:
    """Base of the conformance classes."""

    handler: ClassVar[str]
    """Name of the handler, which is installed (an editable install will do) or lies in one of ``roots``."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Its keys of ``[handlers.NAME]``."""
    secrets: ClassVar[Mapping[str, str]] = {}
    """Values of the environment variables that it declares as secrets."""
    policy: ClassVar[Mapping[str, Any]] = {}
    """The host's own keys of ``[handlers.NAME]``; durations in seconds, sizes in bytes."""
    roots: ClassVar[Sequence[Path]] = ()
    """Directories of installed distributions, in addition to ``sys.path``."""
    data_dir: ClassVar[Path]
    """The data directory of the host: empty at the beginning of the class, and deleted at its end."""

    worker: ClassVar[WorkerUnderTest]
    """The handler in its worker, for tests that a subclass adds."""
    _stack: ClassVar[ExitStack]

    @classmethod
    def setup_class(cls) -> None:
        """Activate the handler once for all tests."""
        cls._stack = ExitStack()
        cls.data_dir = Path(cls._stack.enter_context(tempfile.TemporaryDirectory(prefix="handler-host-test-")))
        try:
            cls._open()
        except BaseException:
            cls._stack.close()
            raise

    @classmethod
    def teardown_class(cls) -> None:
        """Unload the handler."""
        cls._stack.close()

    def teardown_method(self) -> None:
        """Fail if the test has killed the worker."""
        status = self.worker.status
        assert (status.generation, status.last_exit) == (1, None), f"the worker has died: {status.last_exit}"

    @classmethod
    def _open(cls) -> None:
        cls.worker = cls._stack.enter_context(cls._run(cls.settings))
        cls.worker.activate()

    @classmethod
    def _run(cls, settings: Mapping[str, Any]) -> AbstractContextManager[WorkerUnderTest]:
        """Return a worker of the handler with these settings."""
        return worker_under_test(
            cls.handler, settings, secrets=cls.secrets, policy=cls.policy, roots=cls.roots, data_dir=cls.data_dir
        )


def assert_refused(error: HostError, *fields: str) -> None:
    """Fail unless ``error`` is a 400 whose ``param`` is one of the fields, or a path inside of one."""
    assert isinstance(error, InvalidInput), f"{type(error).__name__} instead of a 400 of the handler's own: {error}"
    param = error.param or ""
    assert any(param == field or param.startswith((f"{field}[", f"{field}.")) for field in fields), (
        f"the error names the field {param!r} instead of {' or '.join(fields)}: {error}"
    )
