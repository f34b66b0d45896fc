"""What the import of aiohttp postpones in a server: its client and media types, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """\
import mimetypes, sys
from handler_host._internal.aiohttp_import import import_aiohttp
known = list(mimetypes.knownfiles)
import_aiohttp()
import aiohttp
"""
NAMES = "print(*sorted(vars(aiohttp)))"


def run(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_first_name_of_the_client_adds_all_names() -> None:
    assert run(PROGRAM + "aiohttp.ClientSession\n" + NAMES) == run("import aiohttp.web\n" + NAMES)


def test_version_and_modules_do_not_import_the_client() -> None:
    rest = (
        "import aiohttp.hdrs; print(bool(aiohttp.__version__), aiohttp.web.__name__, 'aiohttp.client' in sys.modules)"
    )
    assert run(PROGRAM + rest) == "True aiohttp.web False"


def test_threads_wait_for_the_first_name() -> None:
    rest = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
barrier = Barrier(4)
def look_up(_):
    barrier.wait()
    return aiohttp.TCPConnector.__name__, hasattr(aiohttp, "Unknown")
print(set(ThreadPoolExecutor(4).map(look_up, range(4))))
"""
    assert run(PROGRAM + rest) == "{('TCPConnector', False)}"


def test_certificates_are_read_with_the_client() -> None:
    before = "import ssl; print('aiohttp.connector' in sys.modules, end=' ')"
    contexts = "[value for value in vars(aiohttp.connector).values() if isinstance(value, ssl.SSLContext)]"
    verified = f"verified = next(context for context in {contexts} if context.verify_mode is ssl.CERT_REQUIRED)"
    counts = "[context.cert_store_stats()['x509_ca'] for context in (verified, ssl.create_default_context())]"
    rest = f"import certifi, os; os.environ['SSL_CERT_FILE'] = certifi.where()\n{before}\n{verified}\nprint(*{counts}, "
    is_imported, after, by_default, checks_name, name = run(
        f"{PROGRAM}{rest}verified.check_hostname, type(verified).__name__)"
    ).split()
    assert is_imported == "False"
    assert after == by_default != "0"
    assert (checks_name, name) == ("True", "SSLContext")


def test_nothing_of_the_standard_library_stays_changed() -> None:
    assert run(PROGRAM + "print(mimetypes.knownfiles == known)") == "True"


def test_inline_handlers_have_the_media_types_of_the_system() -> None:
    fresh = "import mimetypes; mimetypes.init(); print(len(mimetypes.types_map))"
    assert run(PROGRAM + "mimetypes.init(); print(len(mimetypes.types_map))") == run(fresh)
