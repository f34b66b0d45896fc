"""Clients of all handlers at once for ``bench.limit`` and ``bench.soak``: each dispatch has one outcome."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench import servers

CONFIG = """\
data_dir = "{directory}/data"
[log]
format = "json"
[memory]
limit = "{limit}"
{memory}
[defaults]
{defaults}
[handlers.gpt_a]
base_url = "{upstream}/v1"
{handler}
[handlers.gpt_b]
base_url = "{upstream}"
{handler}
[handlers.gpt_c]
base_url = "{upstream}"
{handler}
[handlers.gpt_d]
api_base = {{ openai = "{upstream}/v1" }}
{handler}
[handlers.gpt_e]
max_tokens = 16
{handler}
[handlers.sheets]
backend = "local"
{handler}
"""
KEYS = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"), "sk-loopback")
"""The scripted provider accepts any key; some SDKs demand one."""
PROMPT = [{"role": "user", "content": "Say something."}]
OTHER_OPERATIONS = {"sheets": "status"}
"""The operation to dispatch to a handler that does not chat."""


def config(directory: str, upstream: str, *, limit: str = "auto", memory: str = "", defaults: str = "") -> str:
    """Return a ``host.toml`` in which all handlers use the scripted provider."""
    return CONFIG.format(
        directory=directory, upstream=upstream, limit=limit, memory=memory, defaults=defaults, handler=""
    )


@dataclass
class Tally:
    """Outcomes of dispatches."""

    dispatches: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """``ok``, ``left``, ``never fits``, ``cut off``, ``hung``, or an error's code (``event:CODE`` in a stream)."""
    failures: list[str] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    """Seconds to the first bytes, from an active handler."""
    cold: list[float] = field(default_factory=list)
    """Seconds to the first bytes, from a handler that the dispatch activated."""
    completed: Counter[str] = field(default_factory=Counter)
    """Complete responses by handler."""
    unfit: dict[str, str] = field(default_factory=dict)
    """Messages, by handler, of refusals because the handler can never fit."""

    @property
    def accounted(self) -> bool:
        """Whether each dispatch had exactly one outcome."""
        return self.dispatches == self.outcomes.total()

    def add(self, outcome: str, detail: str = "") -> None:
        """Count the outcome of one dispatch."""
        self.outcomes[outcome] += 1
        if outcome not in ("ok", "left") and len(self.failures) < 20:
            self.failures.append(f"{outcome}: {detail[:300]}")


def handlers_of(host: servers.Server) -> tuple[list[str], list[str]]:
    """Return the handlers that respond, each tried at most twice, and a sentence for each that does not."""
    usable, excluded = [], []
    for handler in host.admin("/admin/handlers")["handlers"]:
        name = handler["name"]
        if handler["state"] != "cold":
            excluded.append(f"{name} is excluded: {handler['state']}, {handler['reason']}")
            continue
        tally = Tally()
        for _ in range(2):
            if not tally.outcomes["ok"]:
                asyncio.run(_once(host.url, name, tally))
        if tally.outcomes["ok"]:
            usable.append(name)
        else:
            excluded.append(f"{name} is excluded: {'; '.join(tally.failures)}")
    return usable, excluded


async def _once(url: str, name: str, tally: Tally) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=servers.TIMEOUT_S)) as session:
        await dispatch(session, url, name, tally)


async def dispatch(
    session: aiohttp.ClientSession, url: str, name: str, tally: Tally, leave_after: int | None = None
) -> None:
    """Send one dispatch and count its outcome; the client disconnects after ``leave_after`` bytes."""
    tally.dispatches += 1
    started = time.perf_counter()
    if name in OTHER_OPERATIONS:
        path, body = f"/v1/handlers/{name}/{OTHER_OPERATIONS[name]}", {}
    else:
        path, body = "/v1/chat/completions", {"model": name, "messages": PROMPT, "stream": True, "max_tokens": 16}
    try:
        async with session.post(url + path, json=body) as response:
            if response.status != 200:
                outcome, detail = _refusal(response, await response.text())
                if outcome == "never fits":
                    tally.unfit[name] = detail
                tally.add(outcome, detail)
                return
            received, first = b"", None
            async for data in response.content.iter_any():
                first = first if first is not None else time.perf_counter() - started
                received += data
                if leave_after is not None and len(received) >= leave_after:
                    tally.add("left")
                    return
            activation = re.search(r"activate;dur=([\d.]+)", response.headers.get("Server-Timing", ""))
            (tally.cold if activation and float(activation[1]) > 0 else tally.warm).append(first or 0.0)
            outcome, detail = _ending(name, received.decode(errors="replace"))
            tally.completed[name] += outcome == "ok"
            tally.add(outcome, detail)
    except TimeoutError:
        tally.add("hung", f"{name}: no complete response within {session.timeout.total:g} s")
    except (aiohttp.ClientError, ConnectionError) as error:
        tally.add("cut off", f"{name}: {type(error).__name__}: {error}")


def _refusal(response: aiohttp.ClientResponse, text: str) -> tuple[str, str]:
    try:
        error = json.loads(text)["error"]
    except (ValueError, LookupError):
        return f"status {response.status}", text
    never = error["code"] == "memory_budget" and response.headers.get("x-should-retry") == "false"
    return ("never fits" if never else error["code"]), error["message"]


def _ending(name: str, text: str) -> tuple[str, str]:
    """Return the outcome of a response with status 200: a stream may have ended with an error."""
    if name in OTHER_OPERATIONS:
        return "ok", ""
    for line in text.splitlines():
        if line.startswith("data: {") and '"error"' in line:
            error = json.loads(line.removeprefix("data: ")).get("error")
            if error is not None:
                return f"event:{error['code']}", error["message"]
    return ("ok", "") if "[DONE]" in text else ("cut off", f"{name}: a stream without an end: {text[-200:]!r}")


async def rotate(url: str, names: Sequence[str], clients: int, seconds: float, alive: Any, pause: float) -> Tally:
    """Run clients that dispatch to all handlers in rotation, each starting with another one, while ``alive()``."""
    tally, until = Tally(), time.perf_counter() + seconds
    timeout = aiohttp.ClientTimeout(total=servers.TIMEOUT_S)

    async def client(number: int) -> None:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            index = number
            while time.perf_counter() < until and alive():
                await dispatch(session, url, names[index % len(names)], tally)
                index += 1
                await asyncio.sleep(pause)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return tally


def steps(log: str) -> Counter[str]:
    """Count the lifecycle events in a log, and the causes in them."""
    counts: Counter[str] = Counter()
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") in ("activated", "unloaded", "failed"):
            counts[entry["event"]] += 1
            if "cause" in entry:
                counts[entry["cause"]] += 1
    return counts


def make_data_dir(directory: str) -> None:
    """Make the directory that the configuration names."""
    Path(directory, "data").mkdir(exist_ok=True)
