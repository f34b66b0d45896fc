"""``[workers]``: worker processes, and the channel between host and worker."""

from __future__ import annotations

from typing import Annotated, Literal

from handler_host.config.fields import MB, Count, Duration, Number, Section


class WorkersConfig(Section, frozen=True, kw_only=True):
    """``[workers]``: worker processes, and the channel between host and worker."""

    linger: Duration = 60.0
    """Time without a worker after which the fork server stops."""
    max_frame: Annotated[int, Number("size", least=4096, most=1024**3)] = 1 * MB
    """Longest chunk of a stream."""
    window: Annotated[int, Number("size", least=1024, most=1024**3)] = 256 * 1024
    """Bytes of one stream that may be in flight between worker and client."""
    heartbeat_interval: Annotated[float, Number("duration", least=0.1)] = 5.0
    """Time between two heartbeats."""
    hang_after: Annotated[float, Number("duration", least=0.2)] = 30.0
    """Heartbeat timeout: a worker that stays silent for so long is killed and replaced.

    Counted in unanswered heartbeats, so that a pause of the whole container is not taken for a hang.
    """
    output_lines_per_second: Count = 200
    """Lines per second of a worker's output to log; lines beyond are counted."""
    confine: Literal["auto", "off", "strict"] = "auto"
    """Whether the kernel confines workers to their own files and processes.

    `auto`: as far as it can; `strict`: handlers do not start where it cannot (Linux before 6.12); `off`: for plugins
    that must signal other processes ([what it covers](../explanation/security.md)). `read_paths` and `write_paths` of
    a handler add files.
    """
    control_groups: bool = False
    """Whether each worker gets a control group of its own, where the host may make one.

    Then the kernel kills a worker alone when memory runs out
    ([where that works](../explanation/memory.md#control-groups-of-workers)).
    """
    compile_lean: bool = True
    """Whether to compile packages for lean imports after a handler's first activation.

    A process at idle priority compiles them once; later activations are lean ([how](../explanation/lean.md)).
    """
