"""What a load, an unload and a pin have brought, as a sentence."""

from __future__ import annotations

from typing import Any

from handler_host.cli.render import duration, size


def of_load(receipt: dict[str, Any]) -> str:
    """Return what an activation has taken."""
    name = receipt["handler"]
    if receipt.get("accepted"):
        return f"{name}: is being activated"
    if receipt["already"]:
        return f"{name}: was active already, generation {receipt['generation']}, pid {receipt['pid']}"
    grown = max(0, receipt["pss_after"] - receipt["pss_before"])
    return (
        f"{name}: activated generation {receipt['generation']}, pid {receipt['pid']}, "
        f"{size(grown)} taken in {duration(receipt['activate_seconds'])}"
    )


def of_unload(receipt: dict[str, Any]) -> str:
    """Return what an unload has given back."""
    name = receipt["handler"]
    if receipt.get("accepted"):
        return f"{name}: is being unloaded"
    if receipt["generation"] is None:
        return f"{name}: had no worker, it is {receipt['was']}"
    return (
        f"{name}: unloaded generation {receipt['generation']}, {size(receipt['bytes_given_back'])} given back "
        f"in {duration(receipt['seconds'])} ({receipt['drained']} drained, {receipt['killed']} killed)"
    )


def of_pin(handler: dict[str, Any]) -> str:
    """Return whether a handler is pinned now."""
    return f"{handler['name']}: {'pinned' if handler['pin'] else 'not pinned'}, {handler['state']}"
