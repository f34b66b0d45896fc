"""The options of ``[launchers.ray]``, and the environment that they mean for Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from handler_host._internal.suggestions import did_you_mean
from handler_host.workers.remote.engine import EngineError

DEFAULT_PORT = 6379


class RayOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of ``[launchers.ray]`` besides those of the host."""

    address: str = "auto"
    """Address of the cluster: ``HOST:PORT`` of its head; ``auto``: the cluster of this machine."""
    namespace: str = "handler-host"
    """Ray's namespace of the workers' actors."""
    auth_token_file: str | None = None
    """File with the cluster's token; switches token authentication on."""
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    """Files of the certificates of Ray's own TLS; all three or none."""
    runtime_env: dict[str, Any] = {}
    """Ray's ``runtime_env`` of all workers; Ray uploads its directories and wheels."""
    runtime_envs: dict[str, dict[str, Any]] = {}
    """Fields of single handlers instead of those, by name; without files of this machine."""

    def environment(self) -> dict[str, str]:
        """Return the variables that Ray reads at its import."""
        variables = {"RAY_USAGE_STATS_ENABLED": "0"}
        if self.auth_token_file is not None:
            variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.auth_token_file}
        if self.tls_ca and self.tls_cert and self.tls_key:
            variables |= {"RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": self.tls_ca}
            variables |= {"RAY_TLS_SERVER_CERT": self.tls_cert, "RAY_TLS_SERVER_KEY": self.tls_key}
        return variables

    def check_files(self) -> None:
        """Raise :class:`EngineError` for a file that cannot be read: Ray's own errors are long, or name no file."""
        for key in ("auth_token_file", "tls_ca", "tls_cert", "tls_key"):
            path = getattr(self, key)
            try:
                if path is not None:
                    Path(path).open("rb").close()
            except OSError as error:
                text = f"launchers.ray.{key} = {path!r}: cannot be read: {error.strerror}; correct the path"
                raise EngineError(text) from error


def read_options(options: Mapping[str, Any]) -> RayOptions:
    """Return the options; raises :class:`EngineError` that names the mistake."""
    for key in options:
        if key not in RayOptions.__struct_fields__:
            hint = did_you_mean(key, RayOptions.__struct_fields__)
            raise EngineError(f"launchers.ray.{key}: unknown option{hint}", is_final=True)
    try:
        read = msgspec.convert(dict(options), RayOptions)
    except msgspec.ValidationError as error:
        raise EngineError(f"[launchers.ray]: {error}; correct the option", is_final=True) from error
    if len({read.tls_ca is None, read.tls_cert is None, read.tls_key is None}) > 1:
        raise EngineError("[launchers.ray]: tls_ca, tls_cert and tls_key belong together; set all three", is_final=True)
    for handler, env in {"": read.runtime_env, **read.runtime_envs}.items():
        if "env_vars" in env:
            place = f"runtime_envs.{handler}" if handler else "runtime_env"
            raise EngineError(
                f"launchers.ray.{place}.env_vars: Ray shows these variables to every user of the cluster; "
                "declare secrets in the manifest of the handler, they travel over the host's own channel",
                is_final=True,
            )
    return read
