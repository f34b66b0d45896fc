"""Launcher of handler-host for the machines of a Ray cluster."""
