"""Lifecycle of handlers: state, transitions, one controller per handler, supervisor."""
