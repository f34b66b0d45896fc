"""Race cases 20 to 26: memory is freed and reserved while handlers activate, respond, grow and are killed.

What a handler takes is laid down as learned by an earlier run, so that a worker of
a few megabytes counts as one of a gigabyte; where the real footprint matters, the
worker really takes it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler_host.memory import sampler
from handler_host.memory.budget import ExceedsMemoryLimit
from handler_host.memory.cgroups import MemoryLimit
from handler_host.memory.footprints import FootprintStore
from handler_host.memory.pressure import KernelView
from handler_host.memory.sampler import Reading
from handler_host.plugin.errors import ActivationFailed, HandlerCrashed, HandlerOutOfMemory, MemoryBudget
from tests.integration.http.serving import running
from tests.support import (
    SupervisorHarness,
    error_of,
    gone,
    install_plugin,
    install_puppet,
    room_for,
    supervisor_harness,
    until,
    within,
)

pytestmark = pytest.mark.alone

MB = 1024**2
SIZE = 1000 * MB
"""The learned footprint of each handler, by default."""


def prepare(root: Path, *names: str, size: int = SIZE) -> dict[str, Any]:
    """Install puppets with a learned footprint of ``size``; return the keys of ``[memory]`` for it."""
    footprints = FootprintStore(root / "memory.json")
    for name in names:
        install_puppet(root, name)
        footprints.record_usage((name, name, "1.0"), peak=size, steady=size)
    footprints.save(footprints.snapshot())
    return {"state_file": root / "memory.json", "headroom": 0, "wait": 600.0}


def control(root: Path, **keys: Any) -> dict[str, Any]:
    return {"control": f"{root}/control", **keys}


def exit_of(host: SupervisorHarness, name: str) -> str:
    last = host.supervisor.status(name).last_exit
    assert last is not None, f"{name} has not ended"
    return last.kind


async def test_case_20_an_activating_handler_is_never_evicted(tmp_path: Path) -> None:
    memory = prepare(tmp_path, "victim", "slow", "other") | {"limit": room_for(2700 * MB)}
    handlers = {"slow": control(tmp_path, at_activation="wait:go")}
    async with supervisor_harness(tmp_path, handlers=handlers, memory=memory) as host:
        host.control.make("go")
        await host.ask("victim")
        slow = host.start(host.ask("slow"))
        await until(lambda: host.supervisor.status("slow").pid is not None)
        pid = host.pid("slow")
        # Only two of them fit.
        assert (await host.ask("other"))["generation"] == 1
        assert exit_of(host, "victim") == "evicted"
        assert host.state("slow") == "activating"
        await host.control.signal("go")
        assert (await within(slow))["pid"] == pid


async def test_case_21_a_new_worker_responds_before_it_can_be_evicted(tmp_path: Path) -> None:
    memory = prepare(tmp_path, "first", "second") | {"limit": room_for(1700 * MB)}
    handlers = {"first": control(tmp_path, at_activation="wait:go")}
    async with supervisor_harness(tmp_path, handlers=handlers, memory=memory) as host:
        host.control.make("go", "finish")
        first = host.start(host.ask("first", "script", steps=["wait:finish"]))
        await until(lambda: host.state("first") == "activating")
        second = host.start(host.ask("second"))
        await until(lambda: host.state("second") == "waiting")
        await host.control.signal("go")
        await until(lambda: host.state("first") == "active")
        assert host.state("second") == "waiting"
        await host.control.signal("finish")
        await within(first)
        # The response was delivered; now it may be evicted.
        await within(second)
        assert exit_of(host, "first") == "evicted"


async def test_case_22_one_of_two_gets_the_memory_none_is_stranded(
    tmp_path: Path,
) -> None:
    # No sample is taken meanwhile: the exit of a worker itself admits the next one.
    memory = prepare(tmp_path, "victim", "one", "two") | {"limit": room_for(1700 * MB), "sample_interval": 600.0}
    async with supervisor_harness(tmp_path, memory=memory) as host:
        await host.ask("victim")
        ledger = host.supervisor.budget.ledger
        excess: list[int] = []

        async def ask(name: str) -> Any:
            async with host.supervisor.lease(name, "echo") as lease:
                # Both at once would be 2000 MB.
                excess.append(ledger.used + ledger.reserved - ledger.usable)
                call = lease.call("echo", b"{}", streamed=False, request_id="test", timeout=30.0)
                return await call.read_response()

        await within(asyncio.gather(ask("one"), ask("two")))
        assert max(excess) <= 0
        assert [host.supervisor.status(name).generation for name in ("victim", "one", "two")] == [1, 1, 1]
        assert exit_of(host, "victim") == "evicted"
        assert sorted(host.state(name) for name in ("one", "two")) == ["cold", "idle"]


async def test_case_22_the_fewest_and_oldest_are_evicted(tmp_path: Path) -> None:
    memory = prepare(tmp_path, "oldest", "older", "newer", "newest", size=400 * MB) | {"limit": room_for(1500 * MB)}
    async with supervisor_harness(tmp_path, memory=memory) as host:
        for name in ("oldest", "older", "newer"):
            await host.ask(name)
        await host.ask("oldest")
        assert [one.handler for one in (await host.supervisor.memory()).evict_next] == ["older", "newer", "oldest"]
        await host.ask("newest")
        assert [host.state(name) for name in ("oldest", "older", "newer")] == ["idle", "cold", "idle"]


async def test_case_23_busy_handlers_are_not_killed(tmp_path: Path) -> None:
    memory = prepare(tmp_path, "busy", "other") | {"limit": room_for(1700 * MB), "wait": 0.2}
    async with supervisor_harness(tmp_path, handlers={"busy": control(tmp_path)}, memory=memory) as host:
        host.control.make("go")
        numbers: list[int] = []

        async def read() -> None:
            async for chunk in host.chunks("busy", steps=["", "wait:go"]):
                numbers.append(chunk["number"])

        stream = host.start(read())
        await until(lambda: bool(numbers))
        error = await error_of(host.ask("other"))
        assert isinstance(error, MemoryBudget)
        assert (error.status, error.code, error.retryable) == (503, "memory_budget", True)
        assert error.retry_after is not None
        assert error.retry_after >= 1.0
        assert error.details is not None
        assert error.details["needed"] == SIZE
        assert host.supervisor.status("other").pid is None
        assert (await host.supervisor.memory()).refused == 1
        await host.control.signal("go")
        await within(stream)
        assert numbers == [0, 1]
        assert (await host.ask("other", number=7))["number"] == 7


async def test_case_23_retry_after_is_the_usual_time_of_the_busy_handler(tmp_path: Path) -> None:
    """``Retry-After`` is estimated: a handler that was busy for a moment each time is soon idle."""
    memory = prepare(tmp_path, "busy", "other") | {"limit": room_for(1700 * MB), "wait": 0.05}
    async with supervisor_harness(tmp_path, memory=memory) as host:
        for _ in range(8):
            await host.ask("busy")
        stream = host.start(error_of(host.ask("busy", "script", steps=["forever"])))
        await until(lambda: host.state("busy") == "active")
        host.supervisor._memory.footprints.record_stop(("busy", "busy", "1.0"), 7.0)
        error = await error_of(host.ask("other"))
        assert error.retry_after is not None
        assert 7.0 <= error.retry_after < 15.0
        stream.cancel()
        await asyncio.wait({stream})


async def test_case_24_a_low_estimate_is_right_the_next_time(
    tmp_path: Path,
) -> None:
    prepare(tmp_path, "idle", "large", size=0)
    handlers = {
        "idle": control(tmp_path, at_activation="allocate:100", memory_estimate=120 * MB),
        "large": control(tmp_path, at_activation="allocate:200", memory_estimate=1 * MB),
    }
    memory = {"limit": room_for(280 * MB), "headroom": 0, "state_file": tmp_path / "memory.json"}
    async with supervisor_harness(tmp_path, handlers=handlers, memory=memory) as host:
        await host.ask("idle")
        assert (await host.supervisor.memory()).handlers["large"].expected_source == "configured"
        await host.ask("large")
        await until(lambda: host.state("idle") == "cold")
        assert exit_of(host, "idle") == "evicted"
        assert (await host.ask("large"))["generation"] == 1
        learned = (await host.supervisor.memory()).handlers["large"]
        assert learned.expected_source == "learned"
        assert learned.expected > 200 * MB
    # After a restart it is known before the fork: the idle handler is evicted first.
    async with supervisor_harness(tmp_path, handlers=handlers, memory=memory) as host:
        assert (await host.supervisor.memory()).handlers["large"].expected > 200 * MB
        await host.ask("idle")
        await host.ask("large")
        assert host.state("idle") == "cold"


async def test_a_worker_that_fails_before_it_is_ready_teaches_no_memory(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = {"puppet": control(tmp_path, at_activation="tell:started wait:go raise", memory_estimate=120 * MB)}
    async with supervisor_harness(tmp_path, handlers=handlers) as host:
        host.control.make("started", "go")
        response = host.start(error_of(host.ask()))
        await host.control.wait_for("started")
        measured = (await host.supervisor.memory()).workers["puppet"]
        assert 0 < measured.pss < 120 * MB
        await host.control.signal("go")
        assert isinstance(await within(response), ActivationFailed)
        memory = (await host.supervisor.memory()).handlers["puppet"]
        assert (memory.expected, memory.expected_source) == (120 * MB, "configured")
        assert memory.learned_peak is None


async def test_an_early_kill_never_lowers_the_estimate(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    footprints = FootprintStore(tmp_path / "memory.json")
    footprints.record_oom_kill(("puppet", "puppet", "1.0"), 10 * MB, 1000 * MB)
    footprints.save(footprints.snapshot())
    handlers = {"puppet": control(tmp_path, memory_estimate=120 * MB)}
    async with supervisor_harness(tmp_path, handlers=handlers, memory={"state_file": footprints.path}) as host:
        assert (await host.supervisor.memory()).handlers["puppet"].expected == 120 * MB


async def test_case_25_a_kill_of_unknown_origin_has_its_own_cause(
    tmp_path: Path,
) -> None:
    """The kernel's own kill is in ``test_kernel_limit.py``: it needs a control group."""
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        asked = host.start(error_of(host.ask("puppet", "script", steps=["forever"])))
        await until(lambda: host.state() == "active")
        os.kill(host.pid(), signal.SIGKILL)
        error = await within(asked)
        assert isinstance(error, HandlerCrashed)
        assert "SIGKILL" in error.message
        await until(lambda: host.state() == "cold")
        assert exit_of(host, "puppet") == "killed"
        assert (await host.supervisor.memory()).handlers["puppet"].out_of_memory == 0
        assert (await host.ask())["generation"] == 2


async def test_case_26_a_pinned_handler_is_never_evicted(tmp_path: Path) -> None:
    memory = prepare(tmp_path, "pinned", "other") | {"limit": room_for(1700 * MB)}
    handlers = {"pinned": control(tmp_path, pin=True)}
    async with supervisor_harness(tmp_path, handlers=handlers, memory=memory) as host:
        await host.ask("pinned")
        # The reservation for the fork server has become its own usage.
        await host.supervisor.memory()
        error = await error_of(host.ask("other"))
        assert isinstance(error, ExceedsMemoryLimit)
        assert not error.retryable
        assert error.details is not None
        assert (error.details["needed"], error.details["pinned"]) == (SIZE, SIZE)
        assert "pinned handlers" in error.message
        assert host.state("pinned") == "idle"
        assert (await host.supervisor.memory()).evict_next == []
        await host.supervisor.unload("pinned")
        assert (await host.ask("other", number=7))["number"] == 7


async def test_case_26_a_pinned_handler_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    memory = prepare(tmp_path, "pinned") | {"limit": room_for(700 * MB)}
    async with supervisor_harness(tmp_path, handlers={"pinned": control(tmp_path, pin=True)}, memory=memory) as host:
        error = await error_of(host.supervisor.load("pinned"))
        assert isinstance(error, ExceedsMemoryLimit)
        assert error.details is not None
        assert error.details["needed"] == SIZE
        assert error.details["usable"] == memory["limit"]
        assert host.supervisor.status("pinned").pid is None


async def test_a_worker_over_its_soft_limit_is_replaced_when_idle(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    keys = control(tmp_path, memory_soft_limit=100 * MB)
    async with supervisor_harness(tmp_path, handlers={"puppet": keys}, memory={"sample_interval": 0.1}) as host:
        host.control.make("go")
        script = host.start(host.ask("puppet", "script", steps=["allocate:150", "wait:go"]))
        await until(lambda: host.state() == "draining")
        later = host.start(host.ask(number=1))
        await host.control.signal("go")
        await within(script)
        assert (await within(later))["generation"] == 2
        assert exit_of(host, "puppet") == "recycled"


async def test_only_the_dispatch_over_the_hard_limit_fails(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    keys = control(tmp_path, memory_hard_limit=400 * MB)
    async with supervisor_harness(tmp_path, handlers={"puppet": keys}) as host:
        host.control.make("go")
        other = host.start(host.ask("puppet", "script", steps=["wait:go"]))
        await until(lambda: host.state() == "active")
        error = await error_of(host.ask("puppet", "script", steps=["allocate:500"]))
        assert isinstance(error, HandlerOutOfMemory)
        assert error.status == 502
        await until(lambda: host.state() == "draining")
        await host.control.signal("go")
        assert (await within(other))["pid"]
        assert (await host.ask())["generation"] == 2
        assert exit_of(host, "puppet") == "out of memory"


async def test_an_activation_over_the_hard_limit_fails_and_says_so(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    keys = control(tmp_path, memory_hard_limit=400 * MB, at_activation="allocate:500")
    async with supervisor_harness(tmp_path, handlers={"puppet": keys}) as host:
        error = await error_of(host.ask())
        assert error.code == "activation_failed"
        assert "MemoryError" in error.message
        assert exit_of(host, "puppet") == "out of memory"


@pytest.mark.parametrize("retried", [True, False])
async def test_a_dispatch_runs_twice_only_with_retry_on_crash(tmp_path: Path, retried: bool) -> None:
    source = "\n".join(
        [
            "import os",
            "from pathlib import Path",
            "from handler_host.plugin import operation",
            "class Handler:",
            "    @operation",
            "    async def fragile(self, request: dict) -> dict:",
            "        runs = Path(request['file'])",
            "        runs.write_text(runs.read_text() + 'x')",
            "        if len(runs.read_text()) == 1:",
            "            os._exit(3)",
            "        return {'runs': len(runs.read_text())}",
        ]
    )
    manifest = f"[operations.fragile]\nretry_on_crash = {str(retried).lower()}\n"
    install_plugin(tmp_path, "fragile", source, manifest=manifest)
    runs = tmp_path / "runs"
    runs.write_text("")
    async with running(tmp_path) as host:
        status, response = await host.json("POST", "/v1/handlers/fragile/fragile", data=f'{{"file": "{runs}"}}')
        if retried:
            assert (status, response) == (200, {"runs": 2})
        else:
            assert (status, response["error"]["code"]) == (502, "handler_crashed")
        assert runs.read_text() == "x" * (2 if retried else 1)


async def test_idle_handlers_are_evicted_under_pressure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel's counter is made up here: real pressure would affect the whole machine."""
    short, stalled = True, 0.0

    def view(limit: MemoryLimit) -> KernelView:
        nonlocal stalled
        if short:
            stalled = time.monotonic()  # all the time
        return KernelView(stalled=stalled, stalled_source="/proc/pressure/memory")

    monkeypatch.setattr("handler_host.memory.sampler.read_kernel_view", view)
    for name in ("one", "two", "three"):
        install_puppet(tmp_path, name)
    async with supervisor_harness(tmp_path, memory={"sample_interval": 0.1, "wait": 600.0, "pressure": None}) as host:
        await host.ask("one")
        await host.ask("two")
        assert host.state("one") == host.state("two") == "idle"
    async with supervisor_harness(tmp_path, memory={"sample_interval": 0.1, "wait": 600.0, "pressure": 0.1}) as host:
        short = False
        await host.ask("one")
        await host.ask("two")
        short = True
        await until(lambda: host.state("one") == "cold" and host.state("two") == "cold")
        assert [exit_of(host, name) for name in ("one", "two")] == ["evicted", "evicted"]
        third = host.start(host.ask("three", number=3))
        await until(lambda: host.state("three") == "waiting")
        report = await host.supervisor.memory()
        assert report.pressure.short
        assert report.pressure.stalled_share > 0.1
        assert [one.handler for one in report.waiting] == ["three"]
        short = False
        assert (await within(third))["number"] == 3
    # Memory is available: the log names the file, the share and the limit.
    (warning,) = (record.message for record in caplog.records if "activations wait" in record.message)
    why = r"memory pressure: tasks waited for memory \d+% of the time, over the limit of 10% \(/proc/pressure/memory\)"
    assert re.match(why, warning), warning


async def test_slow_measurements_are_less_frequent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling uses a bounded share of a processor: the interval is at least fifty times a measurement."""
    install_puppet(tmp_path)
    read, cost = sampler._read, 0.5

    def slow(*arguments: Any) -> Reading:
        return msgspec.structs.replace(read(*arguments), cost=cost)

    monkeypatch.setattr(sampler, "_read", slow)
    async with supervisor_harness(tmp_path, memory={"sample_interval": 0.1}) as host:
        monitor = host.supervisor._memory
        await host.ask()
        await until(lambda: monitor.interval > 0.1)
        assert monitor.interval >= 25.0
        assert (await host.supervisor.memory()).sampling.share <= 0.02


async def test_a_killed_worker_leaves_nothing_reserved(tmp_path: Path) -> None:
    memory = prepare(tmp_path, "one", "two") | {"limit": room_for(1700 * MB)}
    async with supervisor_harness(tmp_path, memory=memory) as host:
        await host.ask("one")
        pid = host.pid("one")
        os.kill(pid, signal.SIGSEGV)
        await until(lambda: gone(pid))
        assert (await host.ask("two"))["generation"] == 1


async def test_a_handler_that_exceeds_the_limit_is_not_to_be_retried(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path, handlers={"puppet": control(tmp_path, memory_estimate=2**48)}) as host:
        async with host.ask("POST", "/v1/handlers/puppet/echo", data="{}") as response:
            assert response.status == 503
            assert response.headers["x-should-retry"] == "false"
            error = (await response.json())["error"]
        assert error["code"] == "memory_budget"
        assert error["details"]["needed"] == 2**48
        assert error["details"]["needed_source"] == "configured"
        assert error["details"]["limit"] < 2**48


class TestLearnedSpike:
    """One spike of memory does not lock a handler out for ever."""

    async def test_a_handler_that_was_ready_before_is_tried_again(self, tmp_path: Path) -> None:
        memory = prepare(tmp_path, "puppet") | {"limit": room_for(650 * MB)}
        footprints = FootprintStore(tmp_path / "memory.json")
        footprints.load()
        footprints.record_activation(("puppet", "puppet", "1.0"), 0.1)
        footprints.save(footprints.snapshot())
        async with supervisor_harness(tmp_path, memory=memory) as host:
            assert (await host.ask())["generation"] == 1
            await host.supervisor.memory()
            # What the limit allows is reserved, and not the spike.
            assert (await host.supervisor.memory()).reserved <= 700 * MB

    async def test_the_refusal_says_when_it_is_tried_and_what_helps(self, tmp_path: Path) -> None:
        memory = prepare(tmp_path, "puppet") | {"limit": room_for(700 * MB)}
        async with supervisor_harness(tmp_path, memory=memory) as host:
            error = await error_of(host.ask())
            assert isinstance(error, ExceedsMemoryLimit)
            assert error.retry_after is not None
            assert 50 < error.retry_after <= 60
            for words in ("again in", "`handler-host forget puppet`", "learn_memory = false", "raise memory.limit"):
                assert words in error.message
            await host.supervisor.forget("puppet")
            assert (await host.ask())["generation"] >= 1
            assert FootprintStore(tmp_path / "memory.json").get(("puppet", "puppet", "1.0")) is None

    async def test_the_estimate_overrides_what_was_learned(self, tmp_path: Path) -> None:
        memory = prepare(tmp_path, "puppet") | {"limit": room_for(700 * MB)}
        handlers = {"puppet": control(tmp_path, learn_memory=False, memory_estimate=100 * MB)}
        async with supervisor_harness(tmp_path, handlers=handlers, memory=memory) as host:
            assert (await host.ask())["generation"] == 1
