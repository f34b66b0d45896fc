"""What is known of all handlers from metadata alone: runnable ones, and the others with the reason.

A scan is a pure read of the file system. It imports no plugin, and no broken
distribution keeps it from finding the rest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec

from handler_host._internal.suggestions import nearest
from handler_host._internal.versions import __version__, parse_range, satisfies
from handler_host.catalog.dist_info import Distribution, normalised, read_installed
from handler_host.catalog.entry_points import Claim, parse
from handler_host.catalog.environments import HandlerEnvironment, default_directory, find_environments
from handler_host.catalog.location import has_own_manifest, locate
from handler_host.catalog.manifest import API_MAJOR, GROUP, Manifest, ManifestError, read_manifest
from handler_host.catalog.roots import divided_path, find_roots
from handler_host.config import CatalogConfig

ProblemState = Literal["invalid", "incompatible", "conflict", "missing-secret", "blocked"]


class Problem(msgspec.Struct, frozen=True):
    """Why a handler cannot run."""

    state: ProblemState
    reason: str
    """Names the place, the value and the remedy."""


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One handler as its metadata describes it."""

    name: str
    distribution: str
    """Normalised name; of a conflict the names of all, with commas between them."""
    version: str
    entry_point: str = ""
    """``module:attribute``."""
    root: str = ""
    """The directory in which the distribution is installed."""
    paths: tuple[str, ...] = ()
    """Site directories that a worker must add; none where the host's own path has the handler."""
    python: str | None = None
    """The interpreter of the handler's own environment; None: it is installed in the host's."""
    manifest: Manifest | None = None
    manifest_path: str | None = None
    problem: Problem | None = None
    """None: it can run."""
    secrets: tuple[str, ...] = ()
    """The names of the secrets that it declares."""
    stamp: int = 0
    """Differs between two installations of the same version."""


class Catalog(msgspec.Struct, frozen=True):
    """All handlers by name, in the order of their names."""

    entries: Mapping[str, CatalogEntry]
    warnings: tuple[str, ...] = ()
    """What is wrong with metadata, but belongs to no handler."""
    distributions: int = 0
    """How many were looked at."""

    @classmethod
    def empty(cls) -> Catalog:
        """Return the catalog of nothing."""
        return cls(MappingProxyType({}))


class Changes(msgspec.Struct, frozen=True):
    """How one catalog differs from another, as sorted names."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def scan(
    settings: CatalogConfig,
    environ: Mapping[str, str],
    *,
    blocked: Collection[str] = (),
    search_path: Sequence[str] | None = None,
) -> Catalog:
    """Read what is installed now.

    ``environ`` is where secrets are looked for (whether they are set; values are
    not kept). ``blocked`` names the handlers that the configuration disables.
    ``search_path`` is where host and workers import from, by default what they share of ``sys.path``.
    """
    search_path, others = divided_path(environ) if search_path is None else (list(search_path), [])
    roots, complaints = find_roots(
        settings.roots,
        environ,
        include_sys_path=settings.include_sys_path,
        search_path=search_path,
        others=others,
    )
    installed = read_installed(roots)
    warnings = complaints + installed.complaints
    offers: dict[str, list[Offer]] = {}
    for distribution in installed.plugins:
        advertised = parse(distribution.entry_points)
        warnings += [f"{distribution.entry_points_path}: {complaint}" for complaint in advertised.complaints]
        for claim in advertised.claims:
            offers.setdefault(claim.name, []).append(Offer(distribution, claim))
    environments, flaws = find_environments(settings.environments or default_directory(environ))
    warnings += flaws
    for environment in environments:
        own, flaws = _offers_of(environment)
        warnings += flaws
        if own:
            # Somebody has made it for this handler: what else claims the name stands back.
            offers[environment.handler] = own
    for name in settings.pins:
        if name not in offers:
            meant = nearest(name, offers)
            hint = f"; did you mean {meant!r}?" if meant is not None else ""
            warnings.append(f"catalog.pins.{name}: no distribution has a handler {name!r}{hint}")
    examiner = _Examiner(environ, search_path)
    entries: dict[str, CatalogEntry] = {}
    for name in sorted(offers):
        choice = _choose(name, offers[name], settings.pins.get(name))
        entry = choice if isinstance(choice, CatalogEntry) else examiner.entry(choice)
        if name in blocked:
            reason = f"disabled by the configuration: [handlers.{_toml_key(name)}] enabled = false"
            entry = msgspec.structs.replace(entry, problem=Problem("blocked", reason))
        entries[name] = entry
        taken = entries[name].distribution.split(", ")
        warnings += [
            f"{other.distribution.entry_points_path}: {name!r} is for API v{other.claim.major}, and left aside"
            for other in offers[name]
            if other.claim.major != API_MAJOR and other.distribution.name not in taken
        ]
    warnings += _shared_variables(entries.values(), environ)
    return Catalog(MappingProxyType(entries), tuple(sorted(warnings)), installed.count)


def diff(old: Catalog, new: Catalog) -> Changes:
    """Return what a rescan has changed."""
    return Changes(
        added=tuple(sorted(new.entries.keys() - old.entries.keys())),
        removed=tuple(sorted(old.entries.keys() - new.entries.keys())),
        changed=tuple(
            sorted(name for name in old.entries.keys() & new.entries.keys() if old.entries[name] != new.entries[name])
        ),
    )


def secret_values(entry: CatalogEntry, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the secrets that the handler declares and that are set.

    The variable for this handler alone is stronger than the one of the secret's own name.
    """
    values: dict[str, str] = {}
    for name in entry.secrets:
        value = environ.get(secret_variable(entry.name, name)) or environ.get(name)
        if value:
            values[name] = value
    return values


def secret_variable(handler: str, secret: str) -> str:
    """Return the environment variable that sets a secret for one handler only."""
    return f"HANDLER_HOST_SECRET_{re.sub('[^A-Z0-9]', '_', handler.upper())}_{secret}"


def _shared_variables(entries: Iterable[CatalogEntry], environ: Mapping[str, str]) -> list[str]:
    """Return warnings of variables meant for one handler that another reads too: A of gpt_b is B_A of gpt."""
    readers: dict[str, list[str]] = {}
    for entry in entries:
        for secret in entry.secrets:
            readers.setdefault(secret_variable(entry.name, secret), []).append(f"{secret} of {entry.name}")
    return [
        f"the variable {variable} is {' and '.join(meanings)} alike; call one of the secrets otherwise"
        for variable, meanings in readers.items()
        if len(meanings) > 1 and variable in environ
    ]


class Offer(msgspec.Struct, frozen=True):
    """A distribution's claim to a handler's name."""

    distribution: Distribution
    claim: Claim
    python: str | None = None
    """The interpreter of the environment that it is in, if that is the handler's own."""

    def entry(self, problem: Problem | None = None) -> CatalogEntry:
        """Return the entry as far as the claim alone tells."""
        return CatalogEntry(
            name=self.claim.name,
            distribution=self.distribution.name,
            version=self.distribution.version,
            entry_point=self.claim.value,
            root=self.distribution.root.path,
            python=self.python,
            problem=problem,
            stamp=self.distribution.stamp,
        )


def _offers_of(environment: HandlerEnvironment) -> tuple[list[Offer], list[str]]:
    """Return what claims the handler's name in its own environment, and what is wrong there."""
    installed = read_installed([environment.root])
    complaints = list(installed.complaints)
    offers: list[Offer] = []
    for distribution in installed.plugins:
        advertised = parse(distribution.entry_points)
        complaints += [f"{distribution.entry_points_path}: {complaint}" for complaint in advertised.complaints]
        offers += [
            Offer(distribution, claim, environment.python)
            for claim in advertised.claims
            if claim.name == environment.handler
        ]
    if not offers:
        complaints.append(
            f"{environment.path} has no plugin with a handler {environment.handler!r}: install it there with "
            f"`handler-host env create {environment.handler}`, or remove the environment"
        )
    return offers, complaints


def _choose(name: str, offers: Sequence[Offer], pin: str | None) -> Offer | CatalogEntry:
    """Return the one offer that the name stands for, or the entry that says why there is none."""
    # A claim for another API harms nobody who can run.
    candidates = [offer for offer in offers if offer.claim.major == API_MAJOR]
    if not candidates:
        candidates = list({offer.distribution.name: offer for offer in offers}.values())
    candidates.sort(key=lambda offer: offer.distribution.name)
    names = [offer.distribution.name for offer in candidates]
    if pin is not None:
        pinned = [offer for offer in candidates if offer.distribution.name == normalised(pin)]
        if pinned:
            return pinned[0]
        reason = (
            f"catalog.pins.{name} = {pin!r}, but that distribution has no handler {name!r}; "
            f"it is offered by {' and '.join(names)}: pin to one of them, or remove the pin"
        )
        return _conflict(candidates, reason)
    if len(candidates) == 1:
        return candidates[0]
    reason = (
        f"{len(names)} distributions have a handler {name!r}: {' and '.join(names)}; uninstall all but one, "
        f'or say in the configuration which to take: [catalog.pins] {_toml_key(name)} = "{names[0]}"'
    )
    return _conflict(candidates, reason)


def _conflict(offers: Sequence[Offer], reason: str) -> CatalogEntry:
    return CatalogEntry(
        name=offers[0].claim.name,
        distribution=", ".join(offer.distribution.name for offer in offers),
        version=", ".join(offer.distribution.version for offer in offers),
        problem=Problem("conflict", reason),
        stamp=max(offer.distribution.stamp for offer in offers),
    )


class _Examiner:
    """Turns the offer that was chosen into an entry: finds its module, reads its manifest, looks for its secrets."""

    def __init__(self, environ: Mapping[str, str], search_path: Sequence[str]) -> None:
        self._environ = environ
        self._search_path = search_path

    def entry(self, offer: Offer) -> CatalogEntry:
        claim, distribution = offer.claim, offer.distribution
        if claim.major != API_MAJOR:
            reason = (
                f"{distribution.name} {distribution.version} is made for API v{claim.major}, this host "
                f"({__version__}) has API v{API_MAJOR}: install a version of the plugin that has the group {GROUP}, "
                "or another version of handler-host"
            )
            return offer.entry(Problem("incompatible", reason))
        if claim.flaw is not None:
            return offer.entry(Problem("invalid", f"{distribution.entry_points_path}: {claim.name!r}: {claim.flaw}"))
        module = claim.value.partition(":")[0]
        search_path = self._search_path if offer.python is None else [distribution.root.path]
        location = locate(module, distribution, search_path)
        if location is None:
            reason = (
                f"module {module!r} of entry point {claim.value!r} is not installed: "
                f"reinstall {distribution.name}, or correct {distribution.entry_points_path}"
            )
            return offer.entry(Problem("invalid", reason))
        entry = offer.entry()
        root = distribution.root
        if offer.python is None and (not root.on_path or (not root.is_site and not location.on_path)):
            entry = msgspec.structs.replace(entry, paths=(root.path,))
        if not has_own_manifest(location, distribution):
            return entry
        path = location.manifest
        try:
            manifest = read_manifest(path)
        except ManifestError as error:
            return msgspec.structs.replace(entry, manifest_path=path, problem=Problem("invalid", error.message))
        entry = msgspec.structs.replace(entry, manifest=manifest, manifest_path=path, secrets=tuple(manifest.secrets))
        return msgspec.structs.replace(entry, problem=self._problem(entry, manifest))

    def _problem(self, entry: CatalogEntry, manifest: Manifest) -> Problem | None:
        wanted = manifest.requires_host
        if wanted is not None and not satisfies(__version__, parse_range(wanted)):
            reason = (
                f"{entry.distribution} {entry.version} requires handler-host {wanted}, this is {__version__}: "
                f"install another version of either (requires_host in {entry.manifest_path})"
            )
            return Problem("incompatible", reason)
        given = secret_values(entry, self._environ)
        missing = [name for name, note in manifest.secrets.items() if note.required and name not in given]
        if not missing:
            return None
        ways = "; ".join(f"{name} (or, for this handler only, {secret_variable(entry.name, name)})" for name in missing)
        return Problem("missing-secret", f"set in the environment of the host: {ways}")


def _toml_key(name: str) -> str:
    return f'"{name}"' if "." in name else name
