"""Bytes: read from the system, learned, promised, measured and given back."""
