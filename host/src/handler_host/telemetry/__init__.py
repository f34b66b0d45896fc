"""Telemetry: counters, events, memory history, metric families."""
