"""Instances: handlers of the configuration that run a plugin under another name (``[handlers.NAME] plugin``). Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from handler_host._internal.suggestions import did_you_mean
from handler_host.catalog.catalog_entry import CatalogEntry, Problem
from handler_host.catalog.entry_points import name_error
from handler_host.catalog.secrets import missing_secrets
from handler_host.config.instance import InstanceConfig
from handler_host.config.model_info import overlay


def with_instances(
    installed: Mapping[str, CatalogEntry], instances: Mapping[str, InstanceConfig], environ: Mapping[str, str]
) -> dict[str, CatalogEntry]:
    """Return the installed handlers with the secrets and titles of the configuration, and an entry for each instance.

    An instance that cannot run has the problem of its plugin, or one of its own.
    """
    entries = dict(installed)
    for name, instance in instances.items():
        if instance.plugin is None or instance.plugin == name:
            if name in installed:
                entries[name] = _configured(installed[name], instance, environ)
        else:
            entries[name] = _instance(name, instance.plugin, instance, installed, instances, environ)
    return dict(sorted(entries.items()))


def _instance(
    name: str,
    plugin: str,
    instance: InstanceConfig,
    installed: Mapping[str, CatalogEntry],
    instances: Mapping[str, InstanceConfig],
    environ: Mapping[str, str],
) -> CatalogEntry:
    from handler_host.config.toml_text import toml_key  # only for instances

    place = f"[handlers.{toml_key(name)}] plugin = {plugin!r}"
    if name in installed:
        reason = f"{place}: {name!r} is an installed handler itself; choose another name, or remove the key"
        return msgspec.structs.replace(installed[name], problem=Problem("conflict", reason))
    error = name_error(name) or _plugin_error(plugin, installed, instances)
    if error is not None:
        problem = Problem("invalid", f"{place}: {error}")
        return CatalogEntry(name=name, distribution="", version="", plugin=plugin, problem=problem)
    entry = msgspec.structs.replace(installed[plugin], name=name, plugin=plugin, title=name)
    if instance.secrets == {} and plugin in instances and not isinstance(instances[plugin].secrets, dict):
        # What the plugin may not have, it does not get under another name.
        instance = msgspec.structs.replace(instance, secrets=instances[plugin].secrets)
    return _configured(entry, instance, environ)


def _plugin_error(
    plugin: str, installed: Mapping[str, CatalogEntry], instances: Mapping[str, InstanceConfig]
) -> str | None:
    if plugin in installed:
        return None
    origin = instances[plugin].plugin if plugin in instances else None
    if origin is not None:
        return f"{plugin!r} is an instance itself; write plugin = {origin!r}"
    return f"no installed plugin has a handler {plugin!r}{did_you_mean(plugin, installed)}"


def _configured(entry: CatalogEntry, instance: InstanceConfig, environ: Mapping[str, str]) -> CatalogEntry:
    variables: dict[str, str] = {}
    secrets, are_vetted = entry.secrets, False
    if isinstance(instance.secrets, dict):
        variables = {secret: variable for secret, variable in instance.secrets.items() if secret in secrets}
    else:
        secrets, are_vetted = tuple(secret for secret in secrets if secret in instance.secrets), True
    models = overlay(entry.models, instance.known_models)
    entry = msgspec.structs.replace(
        entry,
        secrets=secrets,
        secrets_are_vetted=are_vetted,
        secret_variables=variables,
        title=instance.title or entry.title,
        models=models,
    )
    if entry.problem is not None and entry.problem.state != "missing-secret":
        return entry  # any other problem of a plugin is one of its instances as well
    return msgspec.structs.replace(entry, problem=missing_secrets(entry, environ))
