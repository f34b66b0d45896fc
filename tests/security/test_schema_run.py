"""A schema-driven run: the host responds to what schemathesis generates as ``/openapi.json`` says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from handler_host.auth import failed_login_throttle
from tests.integration.http.serving import PARROT, running
from tests.integration.http.test_api_docs import TYPED
from tests.support import install_plugin

KEY = "a-consumer-key"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"
OPTIONS = ("--phases=coverage,fuzzing", "--max-examples=10", "--seed=14", "--generation-database=none", "--no-color")
RUN_LIMIT_S = 120.0


@pytest.mark.slow
async def test_no_server_error_and_no_undocumented_response(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For typed operations and a chat, with valid and invalid bodies, with and without the key."""
    monkeypatch.setattr(failed_login_throttle, "FREE_FAILURES", 10_000)  # hundreds of cases have a wrong key
    install_plugin(tmp_path, "typed", TYPED)
    install_plugin(tmp_path, "parrot", PARROT)
    async with running(tmp_path, keys=(KEY,)) as host:
        for name in ("parrot", "typed"):
            assert (await host.admin("POST", f"/handlers/{name}/load"))[0] == 200
        command = (sys.executable, "-m", "schemathesis.cli", "run", f"{host.url}/openapi.json", "--checks", CHECKS)
        process = await asyncio.create_subprocess_exec(
            *command,
            *OPTIONS,
            *("--header", f"Authorization: Bearer {KEY}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), RUN_LIMIT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, output.decode()
