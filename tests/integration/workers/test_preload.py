"""Modules that the fork server cannot preload are reported: at start, in doctor, and by the fork server."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from handler_host.cli.main import main
from handler_host.config.policy import HandlerPolicy
from handler_host.workers.forkserver.server import OPTIONAL, preload
from tests.support import install_puppet, supervisor_harness, until, within


class TestHost:
    async def test_misspelt_module_is_logged_at_start(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        install_puppet(tmp_path)
        caplog.set_level(logging.INFO)
        async with supervisor_harness(tmp_path, policy={"preload": ("pydantc", "json", "asyncio.nowhere")}) as host:
            (warning,) = [record.getMessage() for record in caplog.records if "preload" in record.getMessage()]
            assert warning == "defaults.preload: unknown module 'pydantc'; did you mean 'pydantic'?"
            assert (await host.supervisor.rescan()).warnings == [warning]
            assert (await within(host.ask(number=1)))["number"] == 1
            output = [
                "preload: asyncio.nowhere: No module named 'asyncio.nowhere'",
                "preload: pydantc: No module named 'pydantc'",
            ]
            await until(lambda: set(output) <= {record.getMessage() for record in caplog.records})

    async def test_place_of_a_handler(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        handlers = {"puppet": {"preload": ("zzz_unlike_any", "json")}}
        install_puppet(tmp_path)
        async with supervisor_harness(tmp_path, handlers=handlers):
            (warning,) = [record.getMessage() for record in caplog.records if "preload" in record.getMessage()]
        assert warning == "[handlers.puppet] preload: unknown module 'zzz_unlike_any'"

    def test_doctor(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "host.toml").write_text(
            f'[defaults]\npreload = ["pydantc"]\n[catalog]\nroots = ["{tmp_path}"]\ninclude_sys_path = false\n'
        )
        main(["doctor", "--config", str(tmp_path / "host.toml"), "--json"])
        findings = json.loads(capsys.readouterr().out)["findings"]
        (finding,) = [finding for finding in findings if "pydantc" in finding["text"]]
        assert finding["place"] == "defaults.preload"
        assert finding["text"].endswith("did you mean 'pydantic'?")
        assert finding["level"] == "warning"


class TestForkServer:
    @pytest.mark.parametrize(
        ("name", "source", "text"),
        [
            ("missing_module", None, "missing_module: No module named 'missing_module'"),
            ("needs_other", "import missing_dependency", "needs_other: No module named 'missing_dependency'"),
            ("raises", "raise OSError('no disk')", "raises: OSError: no disk"),
            ("exits", "raise SystemExit(3)", "exits: SystemExit: 3"),
        ],
    )
    def test_reports_the_reason(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        name: str,
        source: str | None,
        text: str,
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        if source is not None:
            (tmp_path / f"{name}.py").write_text(source)
        preload([name])
        assert capsys.readouterr().err.splitlines()[0] == f"preload: {text}"

    def test_default_is_optional(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert HandlerPolicy().preload == OPTIONAL
        for name in OPTIONAL:
            monkeypatch.setitem(sys.modules, name, None)
        preload(list(OPTIONAL))
        assert "No module" not in capsys.readouterr().err
