"""What the configuration says of deployments and fallbacks: read, checked, made into LiteLLM's Router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from handler_host.plugin import ConfigError, Secret

PLACE = "[handlers.gpt_d]"
KEYS = {"cohere_chat": "COHERE_API_KEY", "together_ai": "TOGETHERAI_API_KEY"}
"""Secrets of providers that are not called as the provider is."""

Text = Annotated[str, Meta(min_length=1)]


class Deployment(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One server that answers under a name; several may have the same."""

    name: Text
    model: Text
    api_base: Text | None = None
    """Another server than the provider's own, and than ``api_base`` says for its provider."""
    secret: Text | None = None
    """The declared secret with its key, where that is not the provider's usual one."""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    """How often it is chosen, against the others of its name."""


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of the configuration that have a shape of their own."""

    api_base: dict[str, Text] = {}
    headers: dict[str, str] = {}
    deployments: list[Deployment] = []
    fallbacks: dict[str, list[str]] = {}


def read(config: Mapping[str, Any]) -> Settings:
    """Return the settings; raises ``ConfigError`` with the path to what is wrong."""
    fields = {name: config[name] for name in Settings.__struct_fields__ if name in config}
    try:
        settings = msgspec.convert(fields, Settings)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        raise ConfigError(f"{PLACE}: {path.rstrip('`')}: {text[:1].lower()}{text[1:]}") from None
    names = {deployment.name for deployment in settings.deployments}
    for name, others in settings.fallbacks.items():
        for member in (name, *others):
            if member not in names:
                known = ", ".join(sorted(names)) or "none"
                raise ConfigError(f"{PLACE}: fallbacks: no deployment is named {member!r}; the names are: {known}")
        if name in others:
            raise ConfigError(f"{PLACE}: fallbacks: {name!r} cannot be its own fallback; remove it from its list")
    return settings


def key_of(provider: str, secret: str | None, secrets: Mapping[str, Secret]) -> str | None:
    """Return the key for a provider, or the one that a deployment names; raises ``ConfigError`` if that is not set."""
    key = secrets.get(secret or KEYS.get(provider, f"{provider.upper()}_API_KEY"))
    if key:
        return key.reveal()
    if secret is not None:
        raise ConfigError(
            f"{PLACE}: deployments: the secret {secret!r} is not set, or none that handler.toml declares; "
            "set the environment variable, or name another"
        )
    return None


def make_router(parameters: list[tuple[Deployment, dict[str, Any]]], settings: Settings, cooldown: float) -> Any:
    """Return LiteLLM's Router for the deployments, each with the parameters of its calls.

    It chooses, turns to the others of a name and then to the fallbacks, and leaves
    out for a while what has failed. It tries nothing twice: that is for our own loop.
    """
    import litellm

    try:
        return litellm.Router(
            model_list=[
                {
                    "model_name": deployment.name,
                    "litellm_params": {**call, "model": deployment.model, "weight": deployment.weight},
                }
                for deployment, call in parameters
            ],
            fallbacks=[{name: others} for name, others in settings.fallbacks.items()],
            # A turn to another deployment of the name counts as one, too, and would end in fallbacks of its
            # own: with more than one level of them, who comes last is asked once by each.
            max_fallbacks=1 if settings.fallbacks else len(parameters),
            num_retries=0,
            enable_weighted_failover=True,
            cooldown_time=cooldown,
            disable_cooldowns=cooldown == 0,
        )
    except ValueError as error:
        # Not its text, nor its traceback: it shows the parameters, with the key among them.
        raise ConfigError(f"{PLACE}: deployments: LiteLLM's Router refuses them ({type(error).__name__})") from None
