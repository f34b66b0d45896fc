"""The configuration: its frozen types, and how the host reads, checks and reloads it."""

from __future__ import annotations

from handler_host.config.fields import MB, AtLeastOne, Count, Duration, Number, Size, Timeout
from handler_host.config.instance import InstanceConfig
from handler_host.config.paths import default_data_dir, kept_state_file, with_state_file
from handler_host.config.policy import POLICY_KEYS, HandlerPolicy, Isolation
from handler_host.config.secret_keys import looks_secret
from handler_host.config.shared import SharedConfig
from handler_host.config.tracing import TracingConfig
from handler_host.config.types import (
    HOST_KEYS,
    AdminConfig,
    AuthConfig,
    CatalogConfig,
    Config,
    LogConfig,
    LogLevel,
    MemoryConfig,
    MetricsConfig,
    ServerConfig,
    VerifyConfig,
)
from handler_host.config.workers import WorkersConfig

__all__ = [
    "HOST_KEYS",
    "MB",
    "POLICY_KEYS",
    "AdminConfig",
    "AtLeastOne",
    "AuthConfig",
    "CatalogConfig",
    "Config",
    "Count",
    "Duration",
    "HandlerPolicy",
    "InstanceConfig",
    "Isolation",
    "LogConfig",
    "LogLevel",
    "MemoryConfig",
    "MetricsConfig",
    "Number",
    "ServerConfig",
    "SharedConfig",
    "Size",
    "Timeout",
    "TracingConfig",
    "VerifyConfig",
    "WorkersConfig",
    "default_data_dir",
    "kept_state_file",
    "looks_secret",
    "with_state_file",
]
