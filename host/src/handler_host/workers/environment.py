"""The environment that a worker gets."""

from __future__ import annotations

from collections.abc import Mapping

KEPT_VARIABLES = frozenset(
    {"PATH", "HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE", "TERM"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}
    | {"PYTHONPATH", "PYTHONHOME", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONPYCACHEPREFIX"}
    | {"PYTHONDONTWRITEBYTECODE", "PYTHONASYNCIODEBUG", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
)
"""The variables of the host's environment that a worker keeps, in addition to ``LC_*``."""


def is_kept_variable(name: str) -> bool:
    """Return whether workers keep this variable of the host's environment."""
    return name in KEPT_VARIABLES or name.startswith("LC_")


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of workers: locale, path, proxy and TLS settings of the host, and no secret."""
    kept = {name: value for name, value in environ.items() if is_kept_variable(name)}
    # pydantic scans the entry points of all distributions, and fails on broken metadata of any of them.
    return {**kept, "PYDANTIC_DISABLE_PLUGINS": "__all__"}
