"""`config check`, `doctor` and `serve` judge a configuration the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handler_host.testing import host_under_test
from tests.integration.cli.harness import PARROT, Run, WriteToml
from tests.support import install_plugin

HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "environ", "word"),
    [
        ('[auth]\nconsumers_file = "missing.toml"', {}, "missing.toml: cannot be read"),
        ('[server]\nhost = "0.0.0.0"', {}, "without API keys the host serves 127.0.0.1 only"),
        ('[server]\nhost = "0.0.0.0"', {"HANDLER_HOST_API_KEYS": "short"}, "too easy to guess"),
        ('[server]\ntls_cert = "missing.pem"', {}, "missing.pem': No such file or directory"),
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


def test_all_three_find_a_missing_key_and_a_bad_address(run: Run, write_toml: WriteToml, tmp_path: Path) -> None:
    """A handler whose key is needed unless it has another server."""
    manifest = (
        '[secrets.PARROT_KEY]\nrequired_unless = ["base_url"]\n[config.base_url]\ntype = "string"\nformat = "url"\n'
    )
    install_plugin(tmp_path / "site", "parrot", PARROT, attribute="Handler", manifest=manifest)
    catalog = f'[catalog]\ninclude_sys_path = false\nroots = ["{tmp_path}/site"]\n'
    keyless = write_toml(catalog)
    lack = "needs PARROT_KEY or base_url; set PARROT_KEY in the host's environment (or, for this handler only, "
    instead = "), or base_url in [handlers.parrot]"
    checked = run("config", "check", "--config", keyless)
    assert (checked.status, lack in checked.err, instead in checked.err) == (0, True, True), checked.err
    assert lack in run("doctor", "--config", keyless).out
    with host_under_test(catalog) as host:
        assert f"parrot {lack}" in host.log
    wrong = "base_url: 'api.example.com/v1' is not an address; write https://HOST/PATH"
    misspelt = f'{catalog}[handlers.parrot]\nbase_url = "api.example.com/v1"\n'
    assert wrong in run("config", "check", "--config", write_toml(misspelt)).err
    assert wrong in run("doctor", "--config", write_toml(misspelt)).out
    with host_under_test(misspelt) as host:
        assert wrong in host.log
    address = write_toml(f'{catalog}[handlers.parrot]\nbase_url = "http://127.0.0.1:9/v1"\n')
    checked = run("config", "check", "--config", address)
    assert (checked.status, "PARROT_KEY" in checked.err) == (0, False), checked.err
