"""Loading the configuration imports no heavy module."""

from __future__ import annotations

import subprocess
import sys


def test_loading_imports_nothing_heavy() -> None:
    """The server loads its configuration at every start, and keeps the memory of all imports."""
    heavy = {"argparse", "ctypes", "difflib", "importlib.metadata", "json", "psutil", "pydantic", "tomllib"}
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import handler_host.config, handler_host._internal.units, handler_host._internal.log\n"
        "import handler_host.config.loader, handler_host.memory.procfs\n"
        "from handler_host.config.loader import load_config\n"
        "load_config(None, {'HANDLER_HOST_SERVER__PORT': '1'}, {'server.host': '127.0.0.1'})\n"
        f"print('loaded', *sorted({heavy!r} & set(sys.modules)))"
    )
    # Without site: its own imports would count.
    command = [sys.executable, "-S", "-W", "error", "-c", script, *filter(None, sys.path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("loaded\n", "")
