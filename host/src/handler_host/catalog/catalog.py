"""The catalog: all handlers from metadata alone; those that cannot run have a reason.

A scan only reads the file system. It imports no plugin, and a broken distribution does
not hide the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import msgspec

from handler_host._internal.suggestions import nearest
from handler_host._internal.versions import __version__, parse_range, satisfies
from handler_host.catalog.catalog_entry import CatalogEntry, Problem
from handler_host.catalog.dist_info import Distribution, Installed, normalize_name, read_installed
from handler_host.catalog.entry_points import Claim, parse
from handler_host.catalog.environments import HandlerEnvironment, default_directory, find_environments
from handler_host.catalog.location import has_own_manifest, locate
from handler_host.catalog.manifest import API_MAJOR, GROUP, Manifest, ManifestError, read_manifest
from handler_host.catalog.roots import find_roots, split_search_path
from handler_host.catalog.secrets import missing_secrets, shared_variables
from handler_host.config import CatalogConfig, Config
from handler_host.config.instance import InstanceConfig


class Catalog(msgspec.Struct, frozen=True):
    """All handlers by name, sorted."""

    entries: Mapping[str, CatalogEntry]
    warnings: tuple[str, ...] = ()
    """Problems of metadata that belong to no handler."""
    distributions: int = 0
    """Number of distributions that the scan has read."""

    @classmethod
    def empty(cls) -> Catalog:
        """Return a catalog without handlers."""
        return cls(MappingProxyType({}))


class Changes(msgspec.Struct, frozen=True):
    """The differences between two catalogs, as sorted names."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def scan_config(config: Config, environ: Mapping[str, str]) -> Catalog:
    """Read the installed handlers, and those that the configuration makes of them."""
    blocked = [name for name in config.handlers if not config.policy(name).enabled]
    return scan(config.catalog, environ, blocked=blocked, instances=config.instances())


def scan(
    settings: CatalogConfig,
    environ: Mapping[str, str],
    *,
    blocked: Collection[str] = (),
    instances: Mapping[str, InstanceConfig] = MappingProxyType({}),
    search_path: Sequence[str] | None = None,
) -> Catalog:
    """Read the installed handlers.

    ``environ`` tells which secrets are set; the catalog keeps no values. ``blocked`` names
    the handlers that the configuration disables, ``instances`` has its keys about plugins and secrets of
    handlers. ``search_path`` is the path that host and
    workers import from, by default the part of ``sys.path`` that they share.
    """
    search_path, host_path = split_search_path(environ) if search_path is None else (list(search_path), [])
    roots = find_roots(
        settings.roots,
        environ,
        include_sys_path=settings.include_sys_path,
        search_path=search_path,
        host_path=host_path,
    )
    installed = read_installed(roots.roots)
    warnings = roots.warnings + installed.warnings + _egg_warnings(roots.eggs + installed.eggs, installed)
    candidates: dict[str, list[Candidate]] = {}
    for distribution in installed.plugins:
        entry_points = parse(distribution.entry_points)
        warnings += [f"{distribution.entry_points_path}: {warning}" for warning in entry_points.warnings]
        for claim in entry_points.claims:
            candidates.setdefault(claim.name, []).append(Candidate(distribution, claim))
    environments, problems = find_environments(settings.environments or default_directory(environ))
    warnings += problems
    for environment in environments:
        own, problems = _environment_candidates(environment)
        warnings += problems
        if own:
            # An environment is made for one handler, so it overrides all other claims to the name.
            candidates[environment.handler] = own
    for name in settings.pins:
        if name not in candidates:
            suggestion = nearest(name, candidates)
            hint = f"; did you mean {suggestion!r}?" if suggestion is not None else ""
            warnings.append(f"catalog.pins.{name}: no distribution has a handler {name!r}{hint}")
    examiner = _Examiner(environ, search_path)
    entries: dict[str, CatalogEntry] = {}
    for name in sorted(candidates):
        choice = _choose(name, candidates[name], settings.pins.get(name))
        entry = choice if isinstance(choice, CatalogEntry) else examiner.entry(choice)
        entries[name] = entry
        used = entries[name].distribution.split(", ")
        warnings += [
            f"{candidate.distribution.entry_points_path}: {name!r} is for API v{candidate.claim.major}, ignored"
            for candidate in candidates[name]
            if candidate.claim.major != API_MAJOR and candidate.distribution.name not in used
        ]
    if instances:
        from handler_host.catalog.instances import with_instances  # only with keys about plugins and secrets

        entries = with_instances(entries, instances, environ)
    for name, entry in entries.items():
        disabled = next((handler for handler in (name, entry.plugin) if handler in blocked), None)
        if disabled is not None:
            from handler_host.config.toml_text import toml_key  # only for messages

            reason = f"disabled by the configuration: [handlers.{toml_key(disabled)}] enabled = false"
            entries[name] = msgspec.structs.replace(entry, problem=Problem("blocked", reason))
    warnings += shared_variables(entries.values(), environ)
    return Catalog(MappingProxyType(entries), tuple(sorted(set(warnings))), installed.count)


def diff(old: Catalog, new: Catalog) -> Changes:
    """Return the differences that a rescan has found."""
    return Changes(
        added=tuple(sorted(new.entries.keys() - old.entries.keys())),
        removed=tuple(sorted(old.entries.keys() - new.entries.keys())),
        changed=tuple(
            sorted(name for name in old.entries.keys() & new.entries.keys() if old.entries[name] != new.entries[name])
        ),
    )


def _egg_warnings(paths: list[str], installed: Installed) -> list[str]:
    """Return warnings about eggs with handlers that no worker can import."""
    if not paths:
        return []
    from handler_host.catalog.eggs import check_eggs  # few hosts have eggs

    return list(check_eggs(paths, installed.directories))


class Candidate(msgspec.Struct, frozen=True):
    """A distribution's claim to a handler's name."""

    distribution: Distribution
    claim: Claim
    python: str | None = None
    """The interpreter of the handler's own environment, if the distribution is in one."""

    def entry(self, problem: Problem | None = None) -> CatalogEntry:
        """Return the entry with the fields that the claim alone has."""
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


def _environment_candidates(environment: HandlerEnvironment) -> tuple[list[Candidate], list[str]]:
    """Return the claims to the handler's name in its own environment, and warnings."""
    installed = read_installed([environment.root])
    warnings = installed.warnings + _egg_warnings(installed.eggs, installed)
    candidates: list[Candidate] = []
    for distribution in installed.plugins:
        entry_points = parse(distribution.entry_points)
        warnings += [f"{distribution.entry_points_path}: {warning}" for warning in entry_points.warnings]
        candidates += [
            Candidate(distribution, claim, environment.python)
            for claim in entry_points.claims
            if claim.name == environment.handler
        ]
    if not candidates:
        warnings.append(
            f"{environment.path} has no plugin with a handler {environment.handler!r}; install it there with "
            f"`handler-host env create {environment.handler}`, or remove the environment"
        )
    return candidates, warnings


def _choose(name: str, candidates: Sequence[Candidate], pin: str | None) -> Candidate | CatalogEntry:
    """Return the candidate that gets the name, or an entry with the conflict."""
    # A claim for another API does not compete with one that can run.
    usable = [candidate for candidate in candidates if candidate.claim.major == API_MAJOR]
    if not usable:
        usable = list({candidate.distribution.name: candidate for candidate in candidates}.values())
    usable.sort(key=lambda candidate: candidate.distribution.name)
    names = [candidate.distribution.name for candidate in usable]
    if pin is not None:
        pinned = [candidate for candidate in usable if candidate.distribution.name == normalize_name(pin)]
        if pinned:
            return pinned[0]
        reason = (
            f"catalog.pins.{name} = {pin!r}, but that distribution has no handler {name!r}; "
            f"pin it to {' or '.join(names)}, or remove the pin"
        )
        return _conflict(usable, reason)
    if len(usable) == 1:
        return usable[0]
    from handler_host.config.toml_text import toml_key  # only for messages

    reason = (
        f"{len(names)} distributions have a handler {name!r}: {' and '.join(names)}; uninstall all but one, "
        f'or choose one in the configuration: [catalog.pins] {toml_key(name)} = "{names[0]}"'
    )
    return _conflict(usable, reason)


def _conflict(candidates: Sequence[Candidate], reason: str) -> CatalogEntry:
    return CatalogEntry(
        name=candidates[0].claim.name,
        distribution=", ".join(candidate.distribution.name for candidate in candidates),
        version=", ".join(candidate.distribution.version for candidate in candidates),
        problem=Problem("conflict", reason),
        stamp=max(candidate.distribution.stamp for candidate in candidates),
    )


class _Examiner:
    """Builds the entry of a candidate: locates its module, reads its manifest, checks its secrets."""

    def __init__(self, environ: Mapping[str, str], search_path: Sequence[str]) -> None:
        self._environ = environ
        self._search_path = search_path

    def entry(self, candidate: Candidate) -> CatalogEntry:
        claim, distribution = candidate.claim, candidate.distribution
        if claim.major != API_MAJOR:
            reason = (
                f"{distribution.name} {distribution.version} is for API v{claim.major}, this host "
                f"({__version__}) has API v{API_MAJOR}; install a version of the plugin with the group {GROUP}, "
                "or another version of handler-host"
            )
            return candidate.entry(Problem("incompatible", reason))
        if claim.error is not None:
            return candidate.entry(
                Problem("invalid", f"{distribution.entry_points_path}: {claim.name!r}: {claim.error}")
            )
        module = claim.value.partition(":")[0]
        search_path = self._search_path if candidate.python is None else [distribution.root.path]
        location = locate(module, distribution, search_path)
        if location is None:
            reason = (
                f"module {module!r} of entry point {claim.value!r} is not installed; "
                f"reinstall {distribution.name}, or correct {distribution.entry_points_path}"
            )
            return candidate.entry(Problem("invalid", reason))
        entry = candidate.entry()
        root = distribution.root
        if candidate.python is None and (not root.on_path or (not root.is_site and not location.on_path)):
            entry = msgspec.structs.replace(entry, paths=(root.added_path,))
        if not has_own_manifest(location, distribution):
            return entry
        path = location.manifest
        try:
            manifest = read_manifest(path)
        except ManifestError as error:
            return msgspec.structs.replace(entry, manifest_path=path, problem=Problem("invalid", error.message))
        entry = msgspec.structs.replace(entry, manifest=manifest, manifest_path=path, secrets=tuple(manifest.secrets))
        entry = msgspec.structs.replace(entry, title=manifest.title, models=manifest.known_models)
        return msgspec.structs.replace(entry, problem=self._problem(entry, manifest))

    def _problem(self, entry: CatalogEntry, manifest: Manifest) -> Problem | None:
        required = manifest.requires_host
        if required is not None and not satisfies(__version__, parse_range(required)):
            reason = (
                f"{entry.distribution} {entry.version} requires handler-host {required}, this is {__version__}; "
                f"install another version of either (requires_host in {entry.manifest_path})"
            )
            return Problem("incompatible", reason)
        return missing_secrets(entry, self._environ)
