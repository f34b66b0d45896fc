"""The log on a standard error that cannot encode every character."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import logging
from handler_host._internal.log import setup
from handler_host.config import LogConfig
setup(LogConfig())
logging.getLogger("x").warning("half \\ud800 and \\u20ac")
"""


def test_unencodable_characters_are_escaped() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert done.stderr.rstrip().endswith(rb"x half \ud800 and \u20ac")
