"""`config check`, `doctor` and `serve` judge a configuration the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.integration.cli.harness import Run, WriteToml

HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "environ", "word"),
    [
        ('[auth]\nconsumers_file = "missing.toml"', {}, "missing.toml: cannot be read"),
        ('[server]\nhost = "0.0.0.0"', {}, "without API keys the host serves 127.0.0.1 only"),
        ('[server]\nhost = "0.0.0.0"', {"HANDLER_HOST_API_KEYS": "short"}, "too easy to guess"),
        ('[defaults]\nfallback = ["nobody"]', {}, "unknown handler 'nobody'"),
    ],
)
def test_a_flaw_is_found_by_all_three(
    run: Run, write_toml: WriteToml, monkeypatch: pytest.MonkeyPatch, text: str, environ: dict[str, str], word: str
) -> None:
    config = write_toml(f"{text}\n[catalog]\ninclude_sys_path = false\n")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    checked = run("config", "check", "--config", config)
    assert (checked.status, word in checked.err) == (2, True), checked.err
    diagnosed = run("doctor", "--config", config)
    assert (diagnosed.status, word in diagnosed.out) == (1, True), diagnosed.out
    command = [sys.executable, "-m", "handler_host", "serve", "--config", config, "--port", "0"]
    served = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environ)
    assert (served.returncode, word in served.stderr) == (2, True), served.stderr
