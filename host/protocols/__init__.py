"""The APIs that clients already speak: each is a translation to and from ``host.chat_types``."""
