"""Token budgets: the counts of a consumer, and the file that keeps them over a restart."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest

from handler_host._internal.atomic_write import replace_file
from handler_host.auth.consumers import Consumer, Consumers
from handler_host.auth.failed_login_throttle import FailedLoginThrottle
from handler_host.auth.rate_limiter import DAY_S, RateLimiter
from handler_host.auth.usage_file import UsageFile, usage_path
from handler_host.config import AuthConfig, MemoryConfig
from handler_host.config.loader import hash_key
from handler_host.plugin.errors import RateLimited
from handler_host.telemetry.usage import MAX_ROWS, OTHER, TokenUsage

DAY_START = 20_000 * DAY_S
NEGATIVE = (
    '{"format": 1, "since": 0, "saved_at": 0, "usage": [], '
    '"budgets": [{"consumer": "a", "day_tokens": -5, "minute": []}]}'
)


def make_consumers(limits: str = "tokens_per_minute = 100\ntokens_per_day = 1000") -> Consumers:
    return Consumers(AuthConfig(consumers=f'[consumers.a]\nhash = "{hash_key("key-a")}"\n{limits}\n'))


def find(consumers: Consumers) -> Consumer:
    consumer = consumers.find("key-a")
    assert consumer is not None
    return consumer


class TestRateLimiter:
    def test_minute_is_any_minute(self) -> None:
        limiter = RateLimiter()
        limiter.count_tokens(60, now=0.0)
        limiter.count_tokens(60, now=30.0)
        assert limiter.tokens.seconds_until_below(100, 30.0) == 30.0
        assert limiter.tokens.seconds_until_below(60, 30.0) == 60.0
        assert limiter.tokens.seconds_until_below(100, 60.0) == 0.0

    def test_day_starts_at_midnight_also_when_the_clock_was_ahead(self) -> None:
        limiter = RateLimiter()
        limiter.count_tokens(7, wall_clock=DAY_START + DAY_S - 1)
        assert limiter.day_tokens(DAY_START + DAY_S - 1) == 7
        assert limiter.day_tokens(DAY_START + DAY_S) == 0
        limiter.count_tokens(7, wall_clock=DAY_START + 1000 * DAY_S)
        assert limiter.day_tokens(DAY_START) == 0

    def test_clock_that_is_set_back_over_midnight_starts_no_day(self) -> None:
        limiter = RateLimiter()
        limiter.count_tokens(7, wall_clock=DAY_START + 600)
        assert limiter.day_tokens(DAY_START - 3000) == 7
        assert limiter.day_tokens(DAY_START + 601) == 7
        assert limiter.day_tokens(DAY_START + DAY_S) == 0


class TestCheck:
    def test_day_is_over_at_midnight(self) -> None:
        consumer = find(make_consumers("tokens_per_day = 10"))
        consumer.count_tokens(9)
        assert consumer.check(uses_tokens=True) is None
        consumer.count_tokens(1)
        assert consumer.check(uses_tokens=False) is None
        refusal = consumer.check(uses_tokens=True)
        assert refusal is not None
        assert "10 tokens per day" in refusal.error.message
        assert refusal.error.retry_after == pytest.approx(DAY_S - time.time() % DAY_S, abs=5.0)

    def test_limits_are_bounded_as_others_are(self) -> None:
        with pytest.raises(Exception, match=r"tokens_per_day = .*: must be a whole number from 1"):
            make_consumers("tokens_per_day = 0")


class TestInstances:
    async def test_each_host_allows_its_part_and_tells_both_numbers(self) -> None:
        text = f'[consumers.a]\nhash = "{hash_key("key-a")}"\nrequests_per_minute = 7\nconcurrency = 1'
        consumer = find(Consumers(AuthConfig(consumers=text), instances=3))
        assert [consumer.check(uses_tokens=True) for _ in range(2)] == [None, None]
        refusal = consumer.check(uses_tokens=True)
        assert refusal is not None
        assert refusal.error.message == "the key 'a' may send 7 requests per minute, 2 of them on each of 3 hosts"
        release = await consumer.acquire()
        with pytest.raises(RateLimited, match="1 dispatches in flight, 1 of them on each of 3 hosts"):
            await consumer.acquire()
        release()
        await consumer.acquire()

    def test_wrong_keys_are_divided(self) -> None:
        throttle = FailedLoginThrottle(instances=2)
        assert [throttle.count_failure("a", now=1000.0) for _ in range(3)] == [0.0, 0.0, 0.5]
        throttle = FailedLoginThrottle(instances=50)
        assert [throttle.count_failure("a", now=1000.0) for _ in range(2)] == [0.0, 0.5]


class TestTokenUsage:
    def test_many_models_count_as_other(self) -> None:
        usage = TokenUsage()
        for number in range(MAX_ROWS + 5):
            usage.add("a", "gpt_a", f"model-{number}", {"input": 1, "cached": 1, "output": 2})
        rows = usage.rows()
        assert len(rows) == MAX_ROWS + 1
        assert [(row.input, row.output) for row in rows if row.model == OTHER] == [(5, 10)]
        (total,) = usage.by_consumer()
        assert (total.input, total.cached, total.output) == (MAX_ROWS + 5, MAX_ROWS + 5, 2 * MAX_ROWS + 10)


class TestUsageFile:
    def test_path_is_beside_the_learned_memory(self) -> None:
        assert usage_path(MemoryConfig()) is None
        assert usage_path(MemoryConfig(state_file=Path("/dev/null"))) is None
        assert usage_path(MemoryConfig(state_file=Path("/var/state/memory.json"))) == Path("/var/state/usage.json")

    def test_restart_keeps_budgets_and_usage(self, tmp_path: Path) -> None:
        file = tmp_path / "state" / "usage.json"

        async def first_run() -> None:
            usage, consumers = TokenUsage(), make_consumers()
            usage_file = UsageFile(file, usage, consumers)
            await usage_file.start()
            find(consumers).count_tokens(150)
            usage.add("a", "gpt_a", "gpt-5", {"input": 100, "output": 50, "reasoning": 20})
            await usage_file.close()

        async def second_run() -> None:
            usage, consumers = TokenUsage(), make_consumers()
            await UsageFile(file, usage, consumers).start()
            refusal = find(consumers).check(uses_tokens=True)
            assert refusal is not None
            assert "100 tokens per minute" in refusal.error.message
            assert refusal.error.retry_after == pytest.approx(60.0, abs=5.0)
            assert find(consumers).day_tokens == 150
            (row,) = usage.rows()
            assert (row.consumer, row.model, row.input, row.reasoning) == ("a", "gpt-5", 100, 20)

        asyncio.run(first_run())
        assert file.stat().st_mode & 0o777 == 0o600
        asyncio.run(second_run())

    def test_old_file_has_no_budgets_of_today(self, tmp_path: Path) -> None:
        file = tmp_path / "usage.json"
        budget = {"consumer": "a", "day_tokens": 5000, "minute": [[1.0, 5000]]}
        content = {"format": 1, "since": 1.0, "saved_at": time.time() - 2 * DAY_S, "usage": [], "budgets": [budget]}
        file.write_text(json.dumps(content))
        usage, consumers = TokenUsage(), make_consumers()
        asyncio.run(UsageFile(file, usage, consumers).start())
        assert find(consumers).check(uses_tokens=True) is None
        assert (find(consumers).day_tokens, usage.since) == (0, 1.0)

    def test_second_host_with_the_same_directory_leaves_the_file(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def run() -> None:
            files = [UsageFile(tmp_path / "usage.json", TokenUsage(), make_consumers()) for _ in range(2)]
            for usage_file in files:
                await usage_file.start()
            for usage_file in reversed(files):
                await usage_file.close()
            await files[1].start()
            await files[1].close()

        with caplog.at_level(logging.WARNING):
            asyncio.run(run())
        assert caplog.text.count("is in use by another host") == 1
        assert "set a data_dir of its own" in caplog.text

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            '{"format": 2, "since": 0, "saved_at": 0, "usage": [], "budgets": []}',
            '{"format": 1, "since": -1e30, "saved_at": 0, "usage": [], "budgets": []}',
            NEGATIVE,
        ],
    )
    def test_damaged_file_is_logged_and_replaced(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
    ) -> None:
        file = tmp_path / "usage.json"
        file.write_text(content)

        async def run() -> None:
            usage = TokenUsage()
            usage_file = UsageFile(file, usage, make_consumers())
            await usage_file.start()
            usage.add("a", "gpt_a", "", {"input": 1})
            await usage_file.close()

        with caplog.at_level(logging.WARNING):
            asyncio.run(run())
        assert "is ignored" in caplog.text
        assert json.loads(file.read_text())["usage"][0]["input"] == 1

    def test_directory_that_cannot_be_written_is_logged_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("handler_host.auth.usage_file.SAVE_INTERVAL_S", 0.0)
        (tmp_path / "blocked").write_text("a file, not a directory")

        async def run() -> None:
            usage = TokenUsage()
            usage_file = UsageFile(tmp_path / "blocked" / "usage.json", usage, make_consumers())
            await usage_file.start()
            for _ in range(3):
                usage.add("a", "gpt_a", "", {"input": 1})
                await asyncio.sleep(0.05)
            await usage_file.close()

        with caplog.at_level(logging.WARNING):
            asyncio.run(run())
        assert caplog.text.count("cannot be written") == 1

    def test_slow_disk_does_not_write_the_older_content_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "usage.json"
        delays = iter([0.3])

        def replace_slowly(path: Path, content: bytes) -> None:
            time.sleep(next(delays, 0.0))
            replace_file(path, content)

        monkeypatch.setattr("handler_host.auth.usage_file.SAVE_INTERVAL_S", 0.0)
        monkeypatch.setattr("handler_host.auth.usage_file.replace_file", replace_slowly)

        async def run() -> None:
            usage = TokenUsage()
            usage_file = UsageFile(file, usage, make_consumers())
            await usage_file.start()
            for _ in range(2):
                usage.add("a", "gpt_a", "", {"input": 1})
                await asyncio.sleep(0.05)
            await usage_file.close()

        asyncio.run(run())
        assert json.loads(file.read_text())["usage"][0]["input"] == 2
