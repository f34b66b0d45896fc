"""Helpers for the other packages: log, units, suggestions, source locations, atomic writes, versions."""
