"""Dispatches below HTTP: authorization, limits, admission, fallback, crash retry, recording, handler calls."""
