"""Clients of all handlers at once, as ``bench.limit`` and ``bench.soak`` need them: each dispatch has an outcome."""

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
"""The upstream takes any key; some SDKs want to have one."""
PROMPT = [{"role": "user", "content": "Say something."}]
OTHER_OPERATIONS = {"sheets": "status"}
"""What is asked of a handler that does not chat."""


def config(directory: str, upstream: str, *, limit: str = "auto", memory: str = "", defaults: str = "") -> str:
    """Return a ``host.toml`` with all handlers pointed at the upstream."""
    return CONFIG.format(
        directory=directory, upstream=upstream, limit=limit, memory=memory, defaults=defaults, handler=""
    )


@dataclass
class Tally:
    """What came of the dispatches."""

    asked: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """``ok``, ``left``, ``never fits``, ``cut off``, ``hung``, or an error's code (``event:CODE`` in a stream)."""
    failures: list[str] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    """Seconds to the first piece, from a handler that was active."""
    cold: list[float] = field(default_factory=list)
    """The same, where it had to be activated."""
    answered: Counter[str] = field(default_factory=Counter)
    """Whole answers by handler."""
    unfit: dict[str, str] = field(default_factory=dict)
    """The handlers that were refused because they can never fit, and the numbers."""

    @property
    def accounted(self) -> bool:
        """Whether each dispatch has had exactly one outcome."""
        return self.asked == self.outcomes.total()

    def note(self, outcome: str, detail: str = "") -> None:
        """Take the one outcome of a dispatch."""
        self.outcomes[outcome] += 1
        if outcome not in ("ok", "left") and len(self.failures) < 20:
            self.failures.append(f"{outcome}: {detail[:300]}")


def handlers_of(host: servers.Server) -> tuple[list[str], list[str]]:
    """Return the handlers that answer, each tried twice at most, and a sentence for each that does not."""
    usable, left_out = [], []
    for handler in host.admin("/admin/handlers")["handlers"]:
        name = handler["name"]
        if handler["state"] != "cold":
            left_out.append(f"{name} is left out: {handler['state']}, {handler['reason']}")
            continue
        tally = Tally()
        for _ in range(2):
            if not tally.outcomes["ok"]:
                asyncio.run(_once(host.url, name, tally))
        if tally.outcomes["ok"]:
            usable.append(name)
        else:
            left_out.append(f"{name} is left out: {'; '.join(tally.failures)}")
    return usable, left_out


async def _once(url: str, name: str, tally: Tally) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=servers.PATIENCE)) as session:
        await dispatch(session, url, name, tally)


async def dispatch(
    session: aiohttp.ClientSession, url: str, name: str, tally: Tally, leave_after: int | None = None
) -> None:
    """Send one dispatch and note its outcome; ``leave_after`` is after how many bytes the client leaves."""
    tally.asked += 1
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
                tally.note(outcome, detail)
                return
            received, first = b"", None
            async for data in response.content.iter_any():
                first = first if first is not None else time.perf_counter() - started
                received += data
                if leave_after is not None and len(received) >= leave_after:
                    tally.note("left")
                    return
            activated = re.search(r"activate;dur=([\d.]+)", response.headers.get("Server-Timing", ""))
            (tally.cold if activated and float(activated[1]) > 0 else tally.warm).append(first or 0.0)
            outcome, detail = _ending(name, received.decode(errors="replace"))
            tally.answered[name] += outcome == "ok"
            tally.note(outcome, detail)
    except TimeoutError:
        tally.note("hung", f"{name}: no answer, or no end of it, within {session.timeout.total:g} s")
    except (aiohttp.ClientError, ConnectionError) as error:
        tally.note("cut off", f"{name}: {type(error).__name__}: {error}")


def _refusal(response: aiohttp.ClientResponse, text: str) -> tuple[str, str]:
    try:
        error = json.loads(text)["error"]
    except (ValueError, LookupError):
        return f"status {response.status}", text
    never = error["code"] == "memory_budget" and response.headers.get("x-should-retry") == "false"
    return ("never fits" if never else error["code"]), error["message"]


def _ending(name: str, text: str) -> tuple[str, str]:
    """Return the outcome of an answer whose status was 200: a stream may have ended with an error."""
    if name in OTHER_OPERATIONS:
        return "ok", ""
    for line in text.splitlines():
        if line.startswith("data: {") and '"error"' in line:
            error = json.loads(line.removeprefix("data: ")).get("error")
            if error is not None:
                return f"event:{error['code']}", error["message"]
    return ("ok", "") if "[DONE]" in text else ("cut off", f"{name}: a stream without an end: {text[-200:]!r}")


async def rotate(url: str, names: Sequence[str], clients: int, seconds: float, alive: Any, pause: float) -> Tally:
    """Let so many clients ask all handlers in rotation, each beginning with another, while ``alive()``."""
    tally, until = Tally(), time.perf_counter() + seconds
    timeout = aiohttp.ClientTimeout(total=servers.PATIENCE)

    async def client(number: int) -> None:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            turn = number
            while time.perf_counter() < until and alive():
                await dispatch(session, url, names[turn % len(names)], tally)
                turn += 1
                await asyncio.sleep(pause)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return tally


def steps(log: str) -> Counter[str]:
    """Return how often each step of a handler's life stands in a log, and each cause of an end."""
    found: Counter[str] = Counter()
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") in ("activated", "unloaded", "failed"):
            found[entry["event"]] += 1
            if "cause" in entry:
                found[entry["cause"]] += 1
    return found


def make_data_dir(directory: str) -> None:
    """Make the directory that the configuration names."""
    Path(directory, "data").mkdir(exist_ok=True)
