"""Run the commands of a page, in an environment of the reader's own that sees the packages of this one."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of the page with the output that the page shows."""
    for block in blocks(text, "console"):
        for command, _, printed in (step.partition("\n") for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]):
            yield command, printed


class Reader:
    """A reader who runs a page's commands, in an environment that sees the packages of this one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[subprocess.Popen[str]] = []
        environment = directory / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = environment / "lib" / version / "site-packages"
        (site / "tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        for name, module in (("handler-host", "handler_host"), ("pip", "pip")):
            command = environment / "bin" / name
            command.write_text(f'#!/bin/sh\nexec "{environment}/bin/python" -m {module} "$@"\n')
            command.chmod(0o755)
        path = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
        offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self.environment = {**os.environ, **offline, "PATH": path, "XDG_DATA_HOME": str(directory / "data")}

    def run(self, command: str) -> str:
        """Run a command; return its output, or the first line of a server's."""
        if command.startswith("export "):
            self.environment |= dict(word.split("=", 1) for word in command.removeprefix("export ").split())
            return ""
        if command.endswith(" &"):
            words = command.removesuffix(" &").split()
            server = subprocess.Popen(
                words,
                cwd=self.directory,
                env=self.environment,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self.running.append(server)
            assert server.stdout is not None
            return server.stdout.readline()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def close(self) -> None:
        """Stop the servers."""
        for server in self.running:
            server.send_signal(signal.SIGTERM)
        for server in self.running:
            server.communicate(timeout=30)
