"""Hosts behind a load balancer that restart one after the other, under load."""

from __future__ import annotations

import shutil

import pytest

from bench.rolling import roll


@pytest.mark.alone
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
async def test_restarting_each_host_fails_no_request() -> None:
    outcome = await roll(hosts=2, clients=4, shutdown_delay_s=3.0, retry_on="conn-failure")
    assert not outcome.failures
    assert outcome.requests > 10
