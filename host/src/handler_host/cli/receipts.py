"""The host's responses to load, unload, reload and pin, each as a sentence."""

from __future__ import annotations

from typing import Any

from handler_host.cli.render import show_duration, show_size


def describe_load(receipt: dict[str, Any]) -> str:
    """Return what an activation did."""
    name = receipt["handler"]
    if receipt.get("accepted"):
        return f"{name}: activation started"
    if receipt["already"]:
        return f"{name}: already active, generation {receipt['generation']}, pid {receipt['pid']}"
    growth = max(0, receipt["pss_after"] - receipt["pss_before"])
    return (
        f"{name}: activated generation {receipt['generation']}, pid {receipt['pid']}, "
        f"{show_size(growth)} in {show_duration(receipt['activate_seconds'])}"
    )


def describe_unload(receipt: dict[str, Any]) -> str:
    """Return what an unload or a reload did."""
    name = receipt["handler"]
    if receipt.get("accepted"):
        return f"{name}: unload started"
    if receipt["generation"] is None:
        return f"{name}: has no worker, state {receipt['was']}"
    workers = receipt.get("workers", 1)
    what = f"{workers} workers" if workers > 1 else f"generation {receipt['generation']}"
    return (
        f"{name}: unloaded {what}, {show_size(receipt['bytes_given_back'])} freed "
        f"in {show_duration(receipt['seconds'])} ({receipt['drained']} drained, {receipt['killed']} killed)"
    )


def describe_forget(handler: dict[str, Any]) -> str:
    """Return that nothing is learned of a handler now."""
    return f"{handler['name']}: learned memory discarded, state {handler['state']}"


def describe_pin(handler: dict[str, Any]) -> str:
    """Return whether a handler is pinned now."""
    return f"{handler['name']}: {'pinned' if handler['pin'] else 'not pinned'}, {handler['state']}"
