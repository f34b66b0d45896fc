"""Telemetry: counters, events, memory history and metric families."""
