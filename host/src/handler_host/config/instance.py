"""Plugin, secrets and preset of one handler: keys of ``[handlers.NAME]`` that ``[defaults]`` does not have."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from handler_host.config.fields import Section

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
"""Name of an environment variable; a secret that is set here by mistake hardly ever looks like one."""
VariableName = Annotated[str, msgspec.Meta(pattern=f"^{VARIABLE.pattern}$")]


class InstanceConfig(Section, frozen=True, kw_only=True):
    """``[handlers.NAME]``: an instance of a plugin under another name, and where its secrets come from."""

    plugin: str | None = None
    """Installed handler that this one is an instance of; None: the installed handler of its name."""
    title: str | None = None
    """Title for people, in lists of models; None: that of the plugin, or the name of an instance."""
    secrets: dict[str, str] | tuple[VariableName, ...] = msgspec.field(default_factory=dict)
    """Table: environment variable of each secret, instead of the one of its name.

    List: the only secrets that the handler receives, whatever else its manifest declares.
    """
    preset: dict[str, Any] = msgspec.field(default_factory=dict)
    """System prompt, sampling and tools of all its chats (``handler_host.config.preset``)."""
    known_models: dict[str, Any] = msgspec.field(default_factory=dict)
    """Facts about its models for the lists of models (``handler_host.config.model_info``)."""


INSTANCE_KEYS = frozenset(InstanceConfig.__struct_fields__)
