"""Requests of real clients, recorded with their texts replaced: path, headers that matter, body."""

from __future__ import annotations

from pathlib import Path

RECORDED_REQUESTS = sorted(Path(__file__).parent.glob("*.json"))
