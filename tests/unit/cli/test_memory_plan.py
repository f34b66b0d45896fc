"""The memory plan of ``handler-host doctor``."""

from __future__ import annotations

from handler_host.cli.memory_plan import HOST_BYTES, Footprint, advise, compute_needs, default_expected
from handler_host.config import MB, Config, HandlerPolicy, MemoryConfig
from handler_host.memory.cgroups import MemoryLimit, read_limit


def footprints(**sizes_mb: int) -> list[Footprint]:
    """Return footprints by handler; one named ``pinned…`` is pinned."""
    return [Footprint(name, size * MB, "measured", name.startswith("pinned")) for name, size in sizes_mb.items()]


def advice(limit_mb: int, config: Config | None = None, **sizes_mb: int) -> list[str]:
    config = config or Config()
    known = footprints(**sizes_mb)
    limit = read_limit(MemoryConfig(limit=limit_mb * MB))
    return list(advise(config, limit, known, compute_needs(known, default_expected(known))))


class TestNeeds:
    def test_without_pins_idle_is_the_host_alone(self) -> None:
        by_name = {need.name: need for need in compute_needs(footprints(a=100, b=50), ["a"])}
        assert by_name["idle"].bytes == HOST_BYTES
        assert by_name["a"].bytes == by_name["expected"].bytes == by_name["b"].bytes + 50 * MB
        assert by_name["all at once"].bytes == by_name["a"].bytes + 50 * MB

    def test_headroom_counts(self) -> None:
        limit = MemoryLimit(512 * MB, 412 * MB, "configured")
        config = Config(memory=MemoryConfig(headroom=100 * MB))
        known = footprints(a=370)
        needs = compute_needs(known, [])
        (need,) = (need for need in needs if need.name == "a")
        assert need.fits(config, 512 * MB) is False
        assert need.fits(Config(memory=MemoryConfig(headroom=50 * MB)), 512 * MB) is True
        assert any("never fits" in line for line in advise(config, limit, known, needs))


class TestAdvice:
    def test_longer_idle_time_if_all_fit(self) -> None:
        lines = advice(1024, a=100, b=100)
        assert lines[0].startswith("all handlers at once fit into 921.6 MB")
        assert "idle_after is 5m" in lines[1]
        never = Config(defaults=HandlerPolicy(idle_after=None))
        assert len(advice(1024, never, a=100, b=100)) == 1

    def test_smallest_container_that_fits_the_busiest_set(self) -> None:
        lines = advice(512, a=300, b=300, c=10)
        assert any("needs 652.0 MB of 460.8 MB" in line and "use a container of 1.0 GB" in line for line in lines)

    def test_handler_that_never_fits_and_large_pins(self) -> None:
        lines = advice(512, pinned_a=250, b=5000)
        assert any(line.startswith("b never fits") and "no common container size is enough" in line for line in lines)
        assert any(line.startswith("pinned handlers (pinned_a) always hold 302.0 MB") for line in lines)
