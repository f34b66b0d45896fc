"""The configuration in force, as frozen types: decoded once, at the start.

Durations are seconds and sizes are bytes. Where the values come from, and what is
said of a wrong one, is the matter of ``handler_host.config.loader``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

Isolation = Literal["process", "exec", "inline"]
LogLevel = Literal["debug", "info", "warning", "error"]
MB = 1024**2


class Number(NamedTuple):
    """How the number of a key is written, and what it may be."""

    written: Literal["count", "size", "duration", "share", "percentage"]
    """``share``: a percentage, kept as a float, or a size, kept as an int."""
    least: float = 0
    most: float = 2**50
    none: str | None = None
    """The word for None."""


Count = Annotated[int, Number("count", most=2**31 - 1)]
AtLeastOne = Annotated[int, Number("count", least=1, most=2**31 - 1)]
Size = Annotated[int, Number("size")]
Duration = Annotated[float, Number("duration")]
Timeout = Annotated[float, Number("duration", least=0.001)]
"""Of 0 seconds nothing would ever come through, or a loop would never rest."""

_SECRET_WORDS = frozenset(
    {"key", "keys", "token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "credentials"}
)


def looks_secret(key: str) -> bool:
    """Return whether a key's name says that its value is not to be shown: ``api_key``, not ``max_tokens``."""
    return not _SECRET_WORDS.isdisjoint(re.split(r"[^a-z]+", key.lower()))


def default_data_dir(environ: Mapping[str, str]) -> Path | None:
    """Return where the XDG base directory specification has a user's data; None where there is no home."""
    base = Path(environ.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():
        base = Path(environ.get("HOME", "")) / ".local" / "share"
    return base / "handler-host" if base.is_absolute() else None


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections."""


class ServerConfig(_Section, frozen=True, kw_only=True):
    """``[server]``: the address, and what a client may ask of it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Number("count", most=65535)] = 8080
    """0 chooses a free one."""
    max_body: Annotated[int, Number("size", least=1)] = 4 * MB
    """Longest request body."""
    max_header: Annotated[int, Number("size", least=512)] = 16 * 1024
    """Longest request line, and longest header."""
    max_connections: AtLeastOne = 1024
    """Requests under way at a time, of all clients."""
    max_answer: Annotated[int, Number("size", least=1)] = 16 * MB
    """Longest answer that is no stream."""
    request_timeout: Timeout = 120.0
    """From admission to the last byte of an answer that is no stream; to the first byte of one that is."""
    body_timeout: Timeout = 10.0
    """For the client to send its body."""
    keepalive_timeout: Duration = 75.0
    """For the client to send its next request."""
    drain_timeout: Duration = 30.0
    """What dispatches under way get at shutdown."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins (``https://chat.example``) may ask the consumers' routes; none: no page may."""


class AuthConfig(_Section, frozen=True, kw_only=True):
    """``[auth]``: who may ask. Keys are kept as ``sha256:HEX``, never in clear."""

    api_keys: tuple[str, ...] = ()
    """Consumer keys; with none the host serves loopback only."""
    admin_token: str | None = None
    """The operators' token; with none one is made at start."""
    consumers_file: Path | None = None
    """Consumers with names, limits and an end; read anew when it changes."""
    consumers: str | None = None
    """The same from the environment, as the text of such a file, or as JSON."""

    @property
    def open(self) -> bool:
        """Whether no consumer is configured, so that everybody on this machine is one."""
        return not self.api_keys and self.consumers_file is None and self.consumers is None

    def __repr__(self) -> str:
        return (
            f"AuthConfig(api_keys=<{len(self.api_keys)}>, admin_token=<{'set' if self.admin_token else 'unset'}>, "
            f"consumers_file={self.consumers_file!r}, consumers=<{'set' if self.consumers else 'unset'}>)"
        )


class MemoryConfig(_Section, frozen=True, kw_only=True):
    """``[memory]``: the budget of the host and all its processes."""

    limit: Annotated[int | None, Number("size", least=16 * MB, none="auto")] = None
    """None (``auto``): the smallest of the control groups' limits, else the machine's memory."""
    headroom: Annotated[float | int, Number("share")] = 0.1
    """Kept free of the limit: a share (``10%``) or bytes."""
    default_estimate: Size = 64 * MB
    """Reserved for a handler of which nothing is known."""
    wait: Duration = 30.0
    """How long an activation waits for room."""
    sample_interval: Annotated[float, Number("duration", least=0.1)] = 2.0
    """Between two measurements while there are workers."""
    pressure: Annotated[float | None, Number("percentage", none="off")] = 0.1
    """Share of time that tasks wait for memory, by the kernel, from which on idle handlers go and activations wait."""
    state_file: Path | None = None
    """Where is kept what was learned of handlers' memory; None: as :func:`with_state_file` finds, else nowhere."""


class WorkersConfig(_Section, frozen=True, kw_only=True):
    """``[workers]``: the processes, and the channel to them."""

    linger: Duration = 60.0
    """The fork server goes when it has had no worker for so long."""
    max_frame: Annotated[int, Number("size", least=4096, most=1024**3)] = 1 * MB
    """Longest piece of a stream."""
    window: Annotated[int, Number("size", least=1024, most=1024**3)] = 256 * 1024
    """Bytes of a stream under way between worker and client."""
    heartbeat_interval: Annotated[float, Number("duration", least=0.1)] = 5.0
    hang_after: Annotated[float, Number("duration", least=0.2)] = 30.0
    """A worker that gives no sign of life for so long is replaced."""
    output_lines_per_second: Count = 200
    """Lines of a worker's standard output that are logged; more are counted."""


class HandlerPolicy(_Section, frozen=True, kw_only=True):
    """``[defaults]``, and the same keys in ``[handlers.NAME]``: how the host treats a handler."""

    enabled: bool = True
    """False: the handler is listed as ``blocked``, and never runs."""
    idle_after: Annotated[float | None, Number("duration", none="never")] = 300.0
    """Unload after so long without a dispatch; None: never."""
    max_queue: Count = 128
    """Dispatches that may wait for the handler; further ones get 429."""
    max_concurrency: AtLeastOne = 32
    """Dispatches that its worker runs at a time."""
    isolation: Isolation = "process"
    python: Path | None = None
    """The interpreter of ``exec``; None: the host's own."""
    preload: tuple[str, ...] = ("pydantic",)
    """Modules that the fork server imports before it forks."""
    pin: bool = False
    """Never unload it for idleness or for another's memory."""
    activate_timeout: Timeout = 60.0
    first_byte_timeout: Timeout = 60.0
    """From the dispatch to the first piece of a stream."""
    gap_timeout: Timeout = 60.0
    """Between two pieces of a stream."""
    drain_timeout: Duration = 30.0
    """What dispatches under way get at an unload."""
    stop_grace: Duration = 5.0
    """For a worker to deactivate and go, before it is killed."""
    backoff: Duration = 1.0
    """Pause after a failed activation; doubles with each further one."""
    backoff_max: Duration = 60.0
    crash_limit: AtLeastOne = 3
    """So many crashes within ``crash_window`` open the circuit."""
    crash_window: Timeout = 60.0
    circuit_pause: Duration = 30.0
    fallback: tuple[str, ...] = ()
    """Handlers that are asked instead, in this order, when this one fails before its answer has begun."""
    verify: bool = False
    """The check of a new deploy activates it, and asks it for its health."""
    memory_estimate: Annotated[int | None, Number("size", none="auto")] = None
    """What an activation is expected to take, before it is known."""
    memory_soft_limit: Annotated[int | None, Number("size", least=1 * MB, none="none")] = None
    """A worker that takes more is recycled: it ends what it does, and the next dispatch gets a new one."""
    memory_hard_limit: Annotated[int | None, Number("size", least=16 * MB, none="none")] = None
    """Data that a worker's process may have (``RLIMIT_DATA``); beyond it gets no more memory."""


class CatalogConfig(_Section, frozen=True, kw_only=True):
    """``[catalog]``: where handlers are looked for."""

    roots: tuple[Path, ...] = ()
    """Directories of installed distributions, beside ``sys.path``."""
    include_sys_path: bool = True
    environments: Path | None = None
    """Directory of the handlers' own virtual environments; None: that of ``handler_host.catalog.environments``."""
    pins: dict[str, str] = {}
    """Which distribution's handler to take where two claim one name."""


class LogConfig(_Section, frozen=True, kw_only=True):
    """``[log]``: one line for each event, on standard error."""

    format: Literal["text", "json"] = "text"
    level: LogLevel = "info"
    levels: dict[str, LogLevel] = {}
    """Of single handlers: of what their workers log and print."""


class VerifyConfig(_Section, frozen=True, kw_only=True):
    """``[verify]``: the check that the host runs of itself after a new deploy."""

    when: Literal["deploy", "start", "never"] = "deploy"
    """``deploy``: where a variable names a commit that is not verified yet; ``start``: without one as well."""
    commit_variables: tuple[str, ...] = ("RENDER_GIT_COMMIT", "RAILWAY_GIT_COMMIT_SHA")
    """The first one that is set names the commit."""
    flag: Path | None = None
    """The file that has the last verified commit; None: that of ``handler_host.lifecycle.verification``."""
    on_failure: Literal["continue", "exit"] = "continue"
    timeout: Timeout = 120.0
    """For all of it."""


class TracingConfig(_Section, frozen=True, kw_only=True):
    """``[tracing]``: spans of dispatches, by OpenTelemetry (the extra ``otel``)."""

    enabled: bool = False
    exporter: str = "otlp_proto_http"
    """The name under which an installed exporter is registered with OpenTelemetry; ``console`` prints."""


class AdminConfig(_Section, frozen=True, kw_only=True):
    """``[admin]``: the operators' routes."""

    listen: str | None = None
    """An address of their own: ``127.0.0.1:9090``, or ``unix:/run/handler-host.sock``; None: that of the others."""


class MetricsConfig(_Section, frozen=True, kw_only=True):
    """``[metrics]``: who may read ``/metrics``."""

    public: bool = False
    """True: everybody; else who has the admin token."""


class Config(_Section, frozen=True, kw_only=True):
    """All of it."""

    server: ServerConfig = ServerConfig()
    auth: AuthConfig = AuthConfig()
    memory: MemoryConfig = MemoryConfig()
    workers: WorkersConfig = WorkersConfig()
    defaults: HandlerPolicy = HandlerPolicy()
    catalog: CatalogConfig = CatalogConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    admin: AdminConfig = AdminConfig()
    verify: VerifyConfig = VerifyConfig()
    tracing: TracingConfig = TracingConfig()
    data_dir: Path | None = None
    """Where handlers keep what outlives their workers."""
    handlers: dict[str, dict[str, Any]] = {}
    """``[handlers.NAME]``: the handler's own keys, and those of its policy, already decoded."""
    source: Path | None = None
    """The file that was read."""

    def __repr__(self) -> str:
        shown = {
            name: {key: "***" if looks_secret(key) else value for key, value in keys.items()}
            for name, keys in self.handlers.items()
        }
        fields = (f"{name}={shown if name == 'handlers' else getattr(self, name)!r}" for name in self.__struct_fields__)
        return f"Config({', '.join(fields)})"

    def policy(self, name: str) -> HandlerPolicy:
        """Return how the host treats a handler: the defaults, and what is set for it."""
        own = self.handlers.get(name, {})
        changes = {key: value for key, value in own.items() if key in POLICY_KEYS}
        return msgspec.structs.replace(self.defaults, **changes) if changes else self.defaults

    def settings(self, name: str) -> dict[str, Any]:
        """Return the handler's own keys of ``[handlers.NAME]``."""
        return {key: value for key, value in self.handlers.get(name, {}).items() if key not in POLICY_KEYS}

    def preload(self) -> tuple[str, ...]:
        """Return what the fork server imports: the modules of the defaults and of all handlers."""
        wanted: Mapping[str, None] = dict.fromkeys(self.defaults.preload)
        for name in self.handlers:
            wanted = {**wanted, **dict.fromkeys(self.policy(name).preload)}
        return tuple(wanted)


POLICY_KEYS = frozenset(HandlerPolicy.__struct_fields__)
"""The keys of ``[handlers.NAME]`` that are the host's own."""


def with_state_file(config: Config, environ: Mapping[str, str]) -> Config:
    """Return the configuration with a place for what is learned, where none is configured.

    It is ``DATA_DIR/.handler-host/memory.json``, else ``handler-host/memory.json`` in
    ``XDG_STATE_HOME`` or ``~/.local/state`` (XDG Base Directory Specification 0.8).
    """
    if config.memory.state_file is not None:
        return config
    if config.data_dir is not None:
        directory = config.data_dir / ".handler-host"
    else:
        # The specification has relative paths ignored.
        state, home = Path(environ.get("XDG_STATE_HOME", "")), Path(environ.get("HOME", ""))
        if not state.is_absolute():
            state = home / ".local" / "state"
        if not state.is_absolute():
            return config
        directory = state / "handler-host"
    memory = msgspec.structs.replace(config.memory, state_file=directory / "memory.json")
    return msgspec.structs.replace(config, memory=memory)
