"""Flaws of keys and addresses, judged the same by ``serve``, ``doctor`` and ``config check``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from handler_host._internal.suggestions import did_you_mean
from handler_host.auth.consumer_file import parse_consumers, read_consumers
from handler_host.config import AuthConfig, Config
from handler_host.config.listen import is_loopback, parse_listen
from handler_host.config.loader import CONSUMERS_VARIABLE, KEYS_VARIABLE, TOKEN_VARIABLE

MIN_KEY_LENGTH = 20
"""Characters of a key that other machines may try to guess."""
MIN_DISTINCT = 6
"""Different characters of such a key: fewer are a pattern."""


def find_address_flaws(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each reason why the host must not listen at its addresses."""
    places = [f"server.listen = {listen!r}" for listen in config.server.listen if _is_open(listen)]
    if not is_loopback(config.server.host):
        places.append(f"server.host = {config.server.host!r}")
    place = places[0] if places else None
    is_open = place is not None
    if place is not None and config.auth.open:
        yield (
            f"{place}: without API keys the host serves 127.0.0.1 only; "
            f"set {KEYS_VARIABLE}, or auth.consumers_file in the file"
        )
    if config.auth.allow_short_keys:
        return
    if place is not None:
        weak = [key for key in environ.get(KEYS_VARIABLE, "").split(",") if key.strip() and _is_weak(key.strip())]
        if weak:
            yield _weak(KEYS_VARIABLE, "a key", place)
    if _is_admin_open(config, is_open):
        token = environ.get(TOKEN_VARIABLE, "").strip()
        if token and _is_weak(token):
            yield _weak(TOKEN_VARIABLE, "the token", "the address of the admin routes")


def find_unknown_handlers(auth: AuthConfig, handlers: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each handler that a key names but is not installed.

    Raises ``ConfigError`` if the consumers file is missing or invalid.
    """
    sources = {}
    if auth.consumers_file is not None:
        sources[str(auth.consumers_file)] = read_consumers(auth.consumers_file)
    if auth.consumers is not None:
        sources[CONSUMERS_VARIABLE] = parse_consumers(auth.consumers, CONSUMERS_VARIABLE)
    for place, entries in sources.items():
        for consumer, entry in entries.items():
            for name in entry.handlers or ():
                if name not in handlers:
                    hint = did_you_mean(name, handlers)
                    yield f"{place}: [consumers.{consumer}] handlers: unknown handler {name!r}{hint}"


def _is_admin_open(config: Config, is_server_open: bool) -> bool:
    if config.admin.listen is None:
        return is_server_open
    return _is_open(config.admin.listen)


def _is_open(listen: str) -> bool:
    """Return whether other machines can reach the address."""
    address = parse_listen(listen)
    return address.path is None and not is_loopback(address.host)


def _is_weak(key: str) -> bool:
    return len(key) < MIN_KEY_LENGTH or len(set(key)) < MIN_DISTINCT


def _weak(variable: str, subject: str, place: str) -> str:
    return (
        f"{variable}: {subject} is too easy to guess for {place}, which other machines can reach; use at least "
        f"{MIN_KEY_LENGTH} random characters, such as from `openssl rand -hex 24`, or set auth.allow_short_keys"
    )
