"""A spreadsheet at the stand-in, a key for it, and hosts whose handler writes there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.integration.plugins.sheets.google import Google, serving


@pytest.fixture(scope="session")
def private_key() -> str:
    """A service account's private key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    async with serving() as server:
        yield server
