"""One handler as its metadata describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from handler_host.catalog.manifest import Manifest
from handler_host.config.model_info import ModelInfo

ProblemState = Literal["invalid", "incompatible", "conflict", "missing-secret", "blocked"]


class Problem(msgspec.Struct, frozen=True):
    """The reason why a handler cannot run."""

    state: ProblemState
    reason: str
    """Place, value and remedy."""


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One handler as its metadata describes it."""

    name: str
    distribution: str
    """Normalized name; the names of all distributions of a conflict, separated by commas."""
    version: str
    plugin: str | None = None
    """The installed handler that this one is an instance of; None for an installed handler."""
    title: str = ""
    """Name for people; empty without one."""
    entry_point: str = ""
    """``module:attribute``."""
    root: str = ""
    """The directory in which the distribution is installed."""
    paths: tuple[str, ...] = ()
    """Site directories that a worker must add; empty if the host's own path has the handler."""
    python: str | None = None
    """The interpreter of the handler's own environment; None if it is installed in the host's."""
    manifest: Manifest | None = None
    manifest_path: str | None = None
    problem: Problem | None = None
    """None if the handler can run."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets that the handler declares and the configuration does not withhold."""
    secrets_are_vetted: bool = False
    """Whether the configuration lists the secrets that it receives (``[handlers.NAME] secrets = [...]``)."""
    secret_variables: Mapping[str, str] = {}
    """Environment variables of secrets whose variable is configured (``[handlers.NAME] secrets``)."""
    models: Mapping[str, ModelInfo] = {}
    """Facts about its models, of the manifest and of the configuration."""
    stamp: int = 0
    """Differs between two installations of the same version."""
