"""The configuration in force, as frozen types: decoded once, at the start.

Durations are seconds and sizes are bytes. ``handler_host.config.loader`` reads the values.

These types are the one source of the reference: ``make reference`` writes the tables of
``docs/reference/configuration.md`` and the whole of ``examples/host.toml`` from their annotations, defaults and
docstrings (``handler_host.config.reference``). In a docstring the first line is also the comment in the example;
a paragraph ``Default:`` describes a default that the host computes, a paragraph ``Example:`` has a value in TOML.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from handler_host.config.fields import MB, AtLeastOne, Duration, Number, Section, Size, Timeout
from handler_host.config.instance import INSTANCE_KEYS, InstanceConfig
from handler_host.config.policy import POLICY_KEYS, HandlerPolicy
from handler_host.config.secret_keys import mask_secret_keys
from handler_host.config.shared import SharedConfig
from handler_host.config.tracing import TracingConfig
from handler_host.config.workers import WorkersConfig

HOST_KEYS = POLICY_KEYS | INSTANCE_KEYS
"""The keys of ``[handlers.NAME]`` that belong to the host, not to the handler."""

LogLevel = Literal["debug", "info", "warning", "error"]


class ServerConfig(Section, frozen=True, kw_only=True):
    """``[server]``: address, limits and timeouts of the HTTP server."""

    host: str = "127.0.0.1"
    """Address to listen on; without consumer keys it must be a loopback address."""
    port: Annotated[int, Number("count", most=65535)] = 8080
    """Port to listen on; 0 chooses a free one."""
    listen: tuple[str, ...] = ()
    """Further addresses to listen on.

    ``HOST:PORT`` or ``unix:PATH``, such as for nginx or Caddy on this machine. The owner and the group of the host's
    process may open the socket.

    Example: ``["unix:/run/handler-host/http.sock", "[::1]:8080"]``
    """
    tls_cert: Path | None = None
    """Certificate chain (PEM), to serve HTTPS without a proxy; SIGHUP reads it again.

    For every TCP address, those of the admin routes included. Unix sockets stay without TLS.

    Example: ``"/etc/handler-host/fullchain.pem"``
    """
    tls_key: Path | None = None
    """Key of the certificate (PEM, without a password).

    Default: the file of the certificate

    Example: ``"/etc/handler-host/key.pem"``
    """
    max_body: Annotated[int, Number("size", least=1)] = 32 * MB
    """Longest request body, decompressed; 413 beyond."""
    max_bodies: Annotated[int | None, Number("size", least=1, none="auto")] = None
    """Request bodies in flight, all together; 503 beyond.

    `auto`: a sixteenth of the memory limit, at least `max_body`.
    """
    max_header: Annotated[int, Number("size", least=512)] = 16 * 1024
    """Longest request line, and longest header; 431 beyond.

    All headers of a request together may have four times as much, at least 64 KB.
    """
    max_connections: AtLeastOne = 1024
    """Requests in flight, of all clients together; 503 beyond."""
    instances: AtLeastOne = 1
    """Hosts that serve the same consumers, this one included.

    Without `[shared]`, each allows its part of the requests, tokens and dispatches in flight of each consumer, and of
    the wrong keys of an address.
    """
    max_connections_per_address: Annotated[int | None, Number("count", least=1, none="off")] = None
    """Open connections of one IP address; 503 beyond.

    Behind a proxy all clients have its address.
    """
    max_answer: Annotated[int, Number("size", least=1)] = 16 * MB
    """Longest response that is not a stream; 502 beyond."""
    request_timeout: Timeout = 120.0
    """From admission to the last byte, or to the first byte of a stream; 504 beyond."""
    body_timeout: Timeout = 10.0
    """Time for the client to send its request body; 408 beyond.

    A body of more than 4 MB has it for each 4 MB.
    """
    keepalive_timeout: Duration = 75.0
    """Time that a connection stays open without a request."""
    shutdown_delay: Duration = 0.0
    """Time after SIGTERM in which the host serves requests, but is not ready.

    `/health/ready` is 503 meanwhile; then the host drains. A load balancer needs a few seconds until it sends no
    more requests. Responses close their connections.
    """
    drain_timeout: Duration = 30.0
    """Time for dispatches in flight to finish at shutdown."""
    trusted_proxies: tuple[str, ...] = ()
    """Proxies whose `X-Forwarded-For` names the client's address: addresses or networks.

    The address counts for delays after wrong keys and in the audit log.

    Example: ``["10.0.0.0/8"]``
    """
    cors_origins: tuple[str, ...] = ()
    """Origins of the web pages that may call the consumer routes.

    Admin routes never allow another origin. `["*"]` allows every origin.

    Example: ``["https://chat.example"]``
    """


class AuthConfig(Section, frozen=True, kw_only=True):
    """``[auth]``: the keys of consumers and operators.

    The file has keys only as hashes, ``sha256:HEX`` (``handler-host config hash`` makes one). The environment has
    them in clear: HANDLER_HOST_API_KEYS (separated by commas) and HANDLER_HOST_ADMIN_TOKEN.
    """

    api_keys: tuple[str, ...] = ()
    """Hashes of the consumer keys; without consumers only clients on this machine are served."""
    admin_token: str | None = None
    """Hash of the admin token.

    Default: a new token at each start, shown on a terminal, else in the file `admin-token` beside the state file

    Example: ``"sha256:..."``
    """
    consumers_file: Path | None = None
    """File of consumers with names, limits and expiry; read again when it changes.

    ``handler-host keys new`` writes it.

    Example: ``"consumers.toml"``
    """
    allow_short_keys: bool = False
    """Whether keys that are easy to guess may guard an open address.

    Otherwise the host refuses keys with fewer than 20 characters, or fewer than 6 different ones, in the environment
    if other machines can reach it.
    """
    consumers: str | None = None
    """The text of such a file, as TOML or JSON; normally set as HANDLER_HOST_CONSUMERS.

    Example: ``"..."``
    """

    @property
    def open(self) -> bool:
        """Whether no consumer is configured, so that every client on this machine is accepted."""
        return not self.api_keys and self.consumers_file is None and self.consumers is None

    def __repr__(self) -> str:
        return (
            f"AuthConfig(api_keys=<{len(self.api_keys)}>, admin_token=<{'set' if self.admin_token else 'unset'}>, "
            f"consumers_file={self.consumers_file!r}, consumers=<{'set' if self.consumers else 'unset'}>)"
        )


class MemoryConfig(Section, frozen=True, kw_only=True):
    """``[memory]``: the memory budget of the host and all its processes."""

    limit: Annotated[int | None, Number("size", least=16 * MB, none="auto")] = None
    """Limit of all processes; ``auto``: the smallest limit of a control group, else all memory."""
    headroom: Annotated[float | int, Number("share")] = 0.1
    """Part of the limit to keep free: a share or a size."""
    default_estimate: Size = 64 * MB
    """Memory to reserve for a handler without estimate and history."""
    wait: Duration = 30.0
    """Time that an activation waits for available memory; 503 beyond."""
    sample_interval: Annotated[float, Number("duration", least=0.1)] = 2.0
    """Time between two memory measurements while workers run.

    A quarter of it while a handler activates or less than a tenth of the budget is available; longer when a
    measurement takes more than 2 % of a processor.
    """
    pressure: Annotated[float | None, Number("percentage", most=0.99, none="off")] = 0.1
    """Memory pressure at which the host evicts idle handlers and activations wait.

    The share of time in which tasks stall on memory, as the kernel reports it (PSI).
    """
    state_file: Path | None = None
    """File of the learned memory footprints and activation times.

    Default: ``.handler-host/memory.json`` in ``data_dir``

    Example: ``"/var/lib/handler-host/memory.json"``
    """


class CatalogConfig(Section, frozen=True, kw_only=True):
    """``[catalog]``: where the host looks for handlers."""

    roots: tuple[Path, ...] = ()
    """Directories with installed plugins, besides the interpreter's own.

    Example: ``["/opt/plugins"]``
    """
    include_sys_path: bool = True
    """Whether to search the interpreter's own directories.

    First the directories that each interpreter has (site directories, ``PYTHONPATH``); last, after ``roots``, those
    that only the host's process has on its ``sys.path``, like its working directory.
    """
    environments: Path | None = None
    """Directory of the handlers' own virtual environments.

    ``handler-host env create`` makes them.

    Default: ``$XDG_DATA_HOME/handler-host/environments``, else ``~/.local/share/handler-host/environments``

    Example: ``"/var/lib/handler-host/environments"``
    """
    pins: dict[str, str] = msgspec.field(default_factory=dict)
    """The distribution to use when several have a handler of the same name.

    Example: ``{ gpt_a = "handler-host-gpt-a" }``
    """


class LogConfig(Section, frozen=True, kw_only=True):
    """``[log]``: the log on standard error, one line for each event."""

    format: Literal["text", "json"] = "text"
    """Format of each line."""
    level: LogLevel = "info"
    """Level of the host's log and of the workers' log."""
    requests: Literal["all", "failures", "none"] = "all"
    """Requests that get a line at their end; ``failures``: only those that failed.

    Successful requests for health, metrics, dashboard and admin routes have the level ``debug``. Failures stay in
    ``handler-host why`` with every value.
    """
    requests_level: LogLevel = "info"
    """Level of the line of a successful request."""
    requests_sample: Annotated[float, Number("percentage")] = 1.0
    """Share of the successful requests that get a line."""
    failures_level: LogLevel = "warning"
    """Level of the line of a failed request; that of a client that disconnected is ``info``."""
    levels: dict[str, LogLevel] = msgspec.field(default_factory=dict)
    """Levels of single handlers, by name, for what their workers log and print.

    Printed lines count as ``info``. A running worker sends less at once, and more from its next activation. Each
    request that an SDK logs at ``info`` (``httpx``, ``LiteLLM``) appears only at the level ``debug``.

    Example: ``{ gpt_a = "debug" }``
    """


class VerifyConfig(Section, frozen=True, kw_only=True):
    """``[verify]``: the check that the host runs on itself after a new deploy."""

    when: Literal["deploy", "start", "never"] = "deploy"
    """``deploy``: on a new commit; ``start``: also at the first start without a commit."""
    commit_variables: tuple[str, ...] = ("RENDER_GIT_COMMIT", "RAILWAY_GIT_COMMIT_SHA")
    """Variables with the commit; the first that is set counts."""
    flag: Path | None = None
    """File of the last verified commit.

    Default: ``.verified`` in ``data_dir``

    Example: ``"/var/lib/handler-host/.verified"``
    """
    on_failure: Literal["continue", "exit"] = "continue"
    """``exit``: not ready until the check passes; exit with status 1 if it fails."""
    timeout: Timeout = 120.0
    """Time for the whole check."""


class AdminConfig(Section, frozen=True, kw_only=True):
    """``[admin]``: the admin routes."""

    listen: str | None = None
    """Separate address of the admin routes.

    ``HOST:PORT`` or ``unix:PATH``. Admin routes, dashboard and (unless public) ``/metrics`` are then served only
    there, and nothing else is. Only the host's user may open the socket.

    Default: the address of ``[server]``

    Example: ``"unix:/run/handler-host.sock"``
    """


class MetricsConfig(Section, frozen=True, kw_only=True):
    """``[metrics]``: access to ``/metrics``."""

    public: bool = False
    """``true``: ``GET /metrics`` needs no admin token."""


class Config(Section, frozen=True, kw_only=True, dict=True):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    auth: AuthConfig = AuthConfig()
    memory: MemoryConfig = MemoryConfig()
    workers: WorkersConfig = WorkersConfig()
    defaults: HandlerPolicy = HandlerPolicy()
    catalog: CatalogConfig = CatalogConfig()
    log: LogConfig = LogConfig()
    verify: VerifyConfig = VerifyConfig()
    tracing: TracingConfig = TracingConfig()
    admin: AdminConfig = AdminConfig()
    metrics: MetricsConfig = MetricsConfig()
    shared: SharedConfig = SharedConfig()
    data_dir: Path | None = None
    """Directory of the handlers' own data, one subdirectory each.

    Made at the first activation of a confined handler, else when a handler first asks for it. Each host needs a
    directory of its own.

    Default: ``$XDG_DATA_HOME/handler-host``, else ``~/.local/share/handler-host``

    Example: ``"/var/lib/handler-host"``
    """
    models: dict[str, str] = msgspec.field(default_factory=dict)
    """``[models]``: names that clients may request, and the handlers that they stand for."""
    handlers: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """``[handlers.NAME]``: the handler's own keys, and those of its policy, already decoded."""
    launchers: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """``[launchers.NAME]``: the host's keys, already decoded, and the options of the launcher itself."""
    source: Path | None = None
    """The file that was read."""

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        for tables in ("handlers", "launchers"):
            values[tables] = {name: mask_secret_keys(keys) for name, keys in values[tables].items()}
        return f"Config({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    def policy(self, name: str) -> HandlerPolicy:
        """Return the policy of a handler: the defaults, overlaid by the handler's own keys."""
        return self._policies.get(name, self.defaults)

    @functools.cached_property
    def _policies(self) -> dict[str, HandlerPolicy]:
        """The policy of each handler with keys of its own: made once, as each request asks for some."""
        return {
            name: msgspec.structs.replace(
                self.defaults, **{key: value for key, value in own.items() if key in POLICY_KEYS}
            )
            for name, own in self.handlers.items()
        }

    def settings(self, name: str) -> dict[str, Any]:
        """Return the handler's own keys of ``[handlers.NAME]``."""
        return {key: value for key, value in self.handlers.get(name, {}).items() if key not in HOST_KEYS}

    def instance(self, name: str) -> InstanceConfig:
        """Return the plugin, title and secrets of a handler, as far as they are configured."""
        own = self.handlers.get(name, {})
        return InstanceConfig(**{key: value for key, value in own.items() if key in INSTANCE_KEYS})

    def instances(self) -> dict[str, InstanceConfig]:
        """Return the plugin, title and secrets of each handler for which one of them is configured."""
        return {name: self.instance(name) for name, keys in self.handlers.items() if not INSTANCE_KEYS.isdisjoint(keys)}

    def preload(self) -> tuple[str, ...]:
        """Return the modules that the fork server imports: those of the defaults and of all handlers."""
        modules: Mapping[str, None] = dict.fromkeys(self.defaults.preload)
        for name in self.handlers:
            modules = {**modules, **dict.fromkeys(self.policy(name).preload)}
        return tuple(modules)
