"""What the import of aiohttp postpones in a server: certificates and media types, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """\
import mimetypes, ssl
from handler_host._internal.aiohttp_import import import_aiohttp
known = list(mimetypes.knownfiles)
import_aiohttp()
import aiohttp, certifi, os
os.environ["SSL_CERT_FILE"] = certifi.where()
from aiohttp import connector
expected = ssl.create_default_context()
contexts = [value for value in vars(connector).values() if isinstance(value, ssl.SSLContext)]
verified = next(context for context in contexts if context.verify_mode is ssl.CERT_REQUIRED)
"""


def run(program: str) -> str:
    command = [sys.executable, "-c", PROGRAM + program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_certificates_are_read_with_the_first_connection() -> None:
    wrap = "verified.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname='a.test')"
    figures = "print(verified.cert_store_stats()['x509_ca'], end=' ')"
    rest = "print(expected.cert_store_stats()['x509_ca'], verified.check_hostname, type(verified).__name__)"
    before, after, by_default, checks_name, name = run(f"{figures}\nkept = {wrap}\n{figures}\n{rest}").split()
    assert before == "0"
    assert after == by_default != "0"
    assert (checks_name, name) == ("True", "SSLContext")


def test_nothing_of_the_standard_library_stays_changed() -> None:
    assert run("print(mimetypes.knownfiles == known, expected.cert_store_stats()['x509_ca'] > 0)") == "True True"


def test_inline_handlers_have_the_media_types_of_the_system() -> None:
    fresh = "import mimetypes; mimetypes.init(); print(len(mimetypes.types_map))"
    expected = subprocess.run([sys.executable, "-c", fresh], check=True, capture_output=True, text=True).stdout.strip()
    assert run("mimetypes.init(); print(len(mimetypes.types_map))") == expected
