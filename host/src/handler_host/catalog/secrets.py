"""Secrets of handlers: the environment variables that have them. The catalog keeps no values.

``workers/launch_spec.py`` puts the values into the worker's first frame.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from handler_host.catalog.catalog_entry import CatalogEntry, Problem


def read_secrets(entry: CatalogEntry, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the handler's secrets that are set.

    The variable for this handler alone overrides the variable that the configuration names, or else that of the
    secret's name.
    """
    values: dict[str, str] = {}
    for name in entry.secrets:
        common = entry.secret_variables.get(name, name)
        value = environ.get(secret_variable(entry.name, name)) or environ.get(common)
        if value:
            values[name] = value
    return values


def secret_variable(handler: str, secret: str) -> str:
    """Return the name of the environment variable that sets a secret for one handler only."""
    return f"HANDLER_HOST_SECRET_{re.sub('[^A-Z0-9]', '_', handler.upper())}_{secret}"


def missing_secrets(entry: CatalogEntry, environ: Mapping[str, str]) -> Problem | None:
    """Return the problem of a handler whose required secrets are not set, or None."""
    declared = entry.manifest.secrets if entry.manifest is not None else {}
    withheld = [name for name, secret in declared.items() if secret.required and name not in entry.secrets]
    if withheld:
        names = ", ".join(withheld)
        text = f"its plugin requires {names}, which secrets of the configuration does not list; add it there"
        return Problem("missing-secret", text)
    values = read_secrets(entry, environ)
    missing = [name for name, secret in declared.items() if secret.required and name not in values]
    if not missing:
        return None
    ways = "; ".join(
        f"{entry.secret_variables.get(name, name)} (or, for this handler only, {secret_variable(entry.name, name)})"
        for name in missing
    )
    return Problem("missing-secret", f"set in the host's environment: {ways}")


def find_lacking_secret(entry: CatalogEntry, environ: Mapping[str, str], settings: Collection[str]) -> str | None:
    """Return, as a sentence, a secret that the handler needs because none of its ``required_unless`` is set.

    ``settings`` are the keys of the handler's configuration.
    """
    declared = entry.manifest.secrets if entry.manifest is not None else {}
    values = read_secrets(entry, environ)
    for name, secret in declared.items():
        others = secret.required_unless
        if others and name not in values and not secret.has_alternative({*settings, *values}):
            variable = entry.secret_variables.get(name, name)
            own_variable = secret_variable(entry.name, name)
            secrets = [key for key in others if key in declared]
            keys = [key for key in others if key not in declared]
            *first, last = name, *secrets, *keys
            ways = [
                f"{variable} in the host's environment (or, for this handler only, {own_variable})",
                *(f"{entry.secret_variables.get(key, key)} there" for key in secrets),
                *(f"{key} in [handlers.{entry.name}]" for key in keys),
            ]
            return f"needs {', '.join(first)} or {last}; set {', or '.join(ways)}"
    return None


def shared_variables(entries: Iterable[CatalogEntry], environ: Mapping[str, str]) -> list[str]:
    """Return warnings about set variables that two handlers read: secret A of gpt_b is also B_A of gpt."""
    readers: dict[str, list[str]] = {}
    for entry in entries:
        for secret in entry.secrets:
            readers.setdefault(secret_variable(entry.name, secret), []).append(f"{secret} of {entry.name}")
    return [
        f"the variable {variable} sets {' and '.join(meanings)}; rename one of the secrets"
        for variable, meanings in readers.items()
        if len(meanings) > 1 and variable in environ
    ]
