"""Check of ``max_workers`` of a handler against the limit of its manifest."""

from __future__ import annotations

from handler_host.config import Config
from handler_host.plugin.errors import ConfigError


def check_worker_limit(config: Config, name: str, allowed: int | None, where: str) -> None:
    """Refuse more workers than the plugin or the isolation of the handler allows.

    ``allowed`` is the limit of the manifest. The key in ``[defaults]`` is for all handlers, and is limited
    silently. Raises ``ConfigError``.
    """
    wanted = config.handlers.get(name, {}).get("max_workers", 1)
    if allowed is not None and wanted > allowed:
        raise ConfigError(
            f"{where}: max_workers = {wanted}: the plugin allows at most {allowed} (workers.max in its manifest); "
            f"set max_workers = {allowed}",
            param="max_workers",
        )
    if wanted > 1 and config.policy(name).isolation == "inline":
        raise ConfigError(
            f'{where}: max_workers = {wanted}: with isolation = "inline" the handler runs in the host, once; '
            'set max_workers = 1, or isolation = "process"',
            param="max_workers",
        )
