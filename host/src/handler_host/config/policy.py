"""How the host treats a handler: ``[defaults]`` and the host's keys of ``[handlers.NAME]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from handler_host.config.fields import MB, AtLeastOne, Count, Duration, Number, Section, Timeout

Isolation = str
"""``process``, ``exec``, ``inline``, or the name of a launcher."""
Unsupported = Literal["refuse", "ignore-hints", "ignore"]


class HandlerPolicy(Section, frozen=True, kw_only=True):
    """``[defaults]``: how the host treats a handler; ``[handlers.NAME]`` has the same keys for one handler."""

    enabled: bool = True
    """``false``: list the handler as ``blocked`` and never run it."""
    idle_after: Annotated[float | None, Number("duration", none="never")] = 300.0
    """Time without a dispatch after which the host unloads the handler."""
    max_keep_alive: Annotated[float | None, Number("duration", none="never")] = 3600.0
    """Longest idle time that a client may set by `keep_alive` of Ollama's API.

    ``never``: also without end.
    """
    max_queue: Count = 128
    """Dispatches that may wait for the handler, warm or cold; 429 beyond."""
    max_concurrency: AtLeastOne = 128
    """Dispatches that a worker runs at a time."""
    max_workers: AtLeastOne = 1
    """Worker processes that the handler may have; beyond the first, the host adds them for load.

    It adds one while the present ones are bound by the processor, and a processor and memory are free. The manifest
    may allow fewer ([how](../explanation/lifecycle.md#several-workers)).
    """
    min_workers: Count = 0
    """Workers that stay when they are idle, once the load has started them.

    Another handler that needs memory may still take them; ``pin`` prevents that.
    """
    target_requests: AtLeastOne = 8
    """Dispatches for each worker, in flight or waiting, beyond which it may add one."""
    grow_after: Timeout = 2.0
    """Time that the workers must be bound by the processor before one more starts."""
    shrink_after: Duration = 60.0
    """Idle time of a worker that is not the last one; the last one has ``idle_after``."""
    isolation: Isolation = "process"
    """``process``: fork a worker; ``exec``: start an interpreter; ``inline``: run in the host.

    ``inline`` gives no memory back ([why](../explanation/processes.md)). The name of a launcher, such as ``ray``: run
    the worker on another machine ([how](../how-to/other-machines.md)).
    """
    resources: dict[str, Annotated[float, Number("amount")]] = msgspec.field(default_factory=dict)
    """Resources besides memory that a worker on another machine needs.

    ``CPU``, ``GPU``, or a name that its engine has for them.

    Example: ``{ GPU = 1 }``
    """
    python: Path | None = None
    """Interpreter for ``exec``.

    Default: the host's

    Example: ``"/opt/venv/bin/python"``
    """
    preload: tuple[str, ...] = ("pydantic", "aiohttp")
    """Modules that the fork server imports once for all workers.

    It imports the modules of all handlers together.
    """
    pin: bool = False
    """``true``: never unload it because it is idle or another handler needs memory."""
    activate_timeout: Timeout = 60.0
    """Time for a worker to become ready; 504 beyond."""
    first_byte_timeout: Timeout = 60.0
    """From the dispatch or the provider's last byte to a stream's first chunk; 504 beyond."""
    gap_timeout: Timeout = 60.0
    """Time in a stream from the provider's last byte to the next one."""
    drain_timeout: Duration = 30.0
    """Time for dispatches in flight to finish at an unload."""
    stop_grace: Duration = 5.0
    """Time for a worker to deactivate and exit; then SIGTERM, and 2 s later SIGKILL."""
    backoff: Duration = 1.0
    """Delay after a failed activation; doubles with each further failure.

    Up to a quarter of jitter is added.
    """
    backoff_max: Duration = 60.0
    """Longest delay after a failed activation."""
    crash_limit: AtLeastOne = 3
    """Crashes within ``crash_window`` that open the circuit breaker."""
    crash_window: Timeout = 60.0
    """Time in which the crashes count."""
    circuit_pause: Duration = 30.0
    """Time that the circuit stays open before one activation may try.

    Up to a quarter of jitter is added.
    """
    fallback: tuple[str, ...] = ()
    """Handlers to try when this one fails before its first byte.

    In this order; see [Fallback](#fallback).

    Example: ``["gpt_b", "gpt_e"]``
    """
    unsupported: Unsupported = "ignore-hints"
    """Treatment of chat fields that the host or the handler lacks.

    ``refuse``: 400 for each. ``ignore-hints``: leave out hints, and name them in ``X-Ignored-Fields``; 400 for
    demands ([both](unsupported-fields.md)). ``ignore``: leave out both. The choice of a key, and that of the request
    in ``X-Unsupported-Fields``, come first.
    """
    native: bool = True
    """``false``: translate all requests, even those in the protocol that the handler speaks."""
    provider_state: bool = False
    """``true``: native requests may refer to stored responses, conversations and files.

    Those are kept by the provider. All consumers share the handler's key, and so they share this state.
    """
    lean: Literal["auto", "off", "force"] = "auto"
    """``auto``: defer imports of the packages that the plugin lists, in checked versions.

    ``force``: in any version; ``off``: never ([how](../explanation/lean.md)).
    """
    read_paths: tuple[Path, ...] = ()
    """Files and directories that its confined worker may read.

    Besides the system, Python, packages, caches (``~/.cache``), and paths in the handler's own settings. See
    ``workers.confine``.

    Example: ``["/srv/prompts"]``
    """
    write_paths: tuple[Path, ...] = ()
    """Files and directories that its confined worker may read and write.

    Besides its data directory, temporary files, and paths in the handler's own settings.

    Example: ``["/srv/exports"]``
    """
    verify: bool = False
    """``true``: the check of a new deploy (``[verify]``) activates it and calls its health hook."""
    memory_estimate: Annotated[int | None, Number("size", none="auto")] = None
    """Memory to reserve for the first activation; ``auto``: the estimate of the manifest."""
    learn_memory: bool = True
    """``false``: always reserve ``memory_estimate``, whatever earlier workers used.

    For a handler with rare spikes. What was learned is kept; ``handler-host forget NAME`` discards it.
    """
    memory_soft_limit: Annotated[int | None, Number("size", least=1 * MB, none="none")] = None
    """PSS beyond which the host recycles the worker.

    The worker gets no new dispatch, finishes those in flight within ``drain_timeout``, and the next dispatch
    starts a new worker.
    """
    memory_hard_limit: Annotated[int | None, Number("size", least=16 * MB, none="none")] = None
    """Limit of the worker's data (``RLIMIT_DATA``); beyond it allocations fail.

    Counts heap and private mappings, touched or not, so leave a margin above the PSS. The dispatch gets 502
    ``handler_out_of_memory``, and the host recycles the worker.
    """


POLICY_KEYS = frozenset(HandlerPolicy.__struct_fields__)
"""The keys of ``[handlers.NAME]`` that are also keys of ``[defaults]``."""
