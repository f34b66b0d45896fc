"""The launcher for Ray without Ray: its options, and what it says of a cluster that cannot be joined."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from handler_host._internal.versions import __version__
from handler_host.workers.remote.engine import EngineError, PlaceReport

SOURCE = Path(__file__).parents[3] / "launchers" / "ray" / "src"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module of the engine, which imports Ray only when it connects."""
    monkeypatch.syspath_prepend(str(SOURCE))
    return importlib.import_module("handler_host_ray.engine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adress": "a:1"}, "launchers.ray.adress: unknown option; did you mean 'address'?"),
        ({"address": 6379}, "Expected `str`, got `int`"),
        ({"tls_ca": "ca.pem"}, "tls_ca, tls_cert and tls_key belong together"),
        ({"runtime_env": {"env_vars": {"OPENAI_API_KEY": "sk-1"}}}, "launchers.ray.runtime_env.env_vars: Ray shows"),
        ({"runtime_envs": {"gpt_a": {"env_vars": {}}}}, "launchers.ray.runtime_envs.gpt_a.env_vars"),
    ],
)
def test_a_mistake_in_an_option_is_named_and_final(
    engine: ModuleType, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(EngineError) as refusal:
        engine.RayEngine(options)
    assert message in str(refusal.value)
    assert "sk-1" not in str(refusal.value)
    assert refusal.value.is_final


def test_options_become_the_variables_that_ray_reads(engine: ModuleType) -> None:
    files = {"tls_ca": "ca", "tls_cert": "cert", "tls_key": "key", "auth_token_file": "token"}
    options = importlib.import_module("handler_host_ray.options").read_options(files)
    assert options.environment() == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "token",
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": "ca",
        "RAY_TLS_SERVER_CERT": "cert",
        "RAY_TLS_SERVER_KEY": "key",
    }


def test_another_version_is_one_final_message(
    engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray").mkdir()  # importable, as a namespace package without a version
    monkeypatch.syspath_prepend(str(tmp_path))
    # The text of Ray 2.60.
    text = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.9\n"
        "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    error = engine._connection_error(RuntimeError(text), "10.0.0.1:6379")
    assert error.is_final
    assert "10.0.0.1:6379 has other versions" in str(error)
    assert "Ray: 2.59.0 Python: 3.11.9" in str(error)
    assert "\n" not in str(error)


async def test_a_file_that_is_missing_is_named_with_its_option(engine: ModuleType, tmp_path: Path) -> None:
    missing = str(tmp_path / "token")
    with pytest.raises(
        EngineError, match=r"launchers\.ray\.auth_token_file = .*: cannot be read: No such file"
    ) as refusal:
        await engine.RayEngine({"auth_token_file": missing}).start()
    assert not refusal.value.is_final


async def test_an_address_where_nothing_listens_is_named_at_once(engine: ModuleType) -> None:
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1 cannot be reached") as refusal:
        await engine._check_address("127.0.0.1:1")
    assert not refusal.value.is_final


class FakeRay:
    """Ray with nodes whose processes return or raise the given results."""

    __version__ = "2.60.0"

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = results

    def remote(self, **options: Any) -> Any:
        def submit(scheduling_strategy: SimpleNamespace) -> SimpleNamespace:
            return SimpleNamespace(remote=lambda: scheduling_strategy.node_id)

        return lambda function: SimpleNamespace(options=submit)

    def wait(self, refs: list[str], **options: Any) -> tuple[list[str], list[str]]:
        return refs, []

    def get(self, ref: str) -> Any:
        if isinstance(self.results[ref], Exception):
            raise self.results[ref]
        return self.results[ref]


def test_doctor_names_the_node_whose_process_fails(engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    strategies = ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = SimpleNamespace  # type: ignore[attr-defined]
    for name in ("ray", "ray.util"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, strategies.__name__, strategies)
    lacking = RuntimeError("Traceback:\nModuleNotFoundError: No module named 'handler_host_ray'")
    ray = FakeRay({"1": ("0", 2**30, __version__), "2": lacking})
    options = importlib.import_module("handler_host_ray.options").read_options({})
    places = [PlaceReport("good", 2**30), PlaceReport("bare", 2**30)]
    examination = importlib.import_module("handler_host_ray.examination")
    *_, good, bare = examination.examine(ray, options, places, {"good": "1", "bare": "2"})
    assert (good.ok, bare.ok) == (True, False)
    assert "a process failed there: ModuleNotFoundError: No module named 'handler_host_ray'; install" in bare.text
