"""The tutorial's commands, run as they stand from the first to the last, answer what the page shows."""

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

import pytest

PAGE = Path(__file__).parents[2] / "docs/tutorial/first-plugin.md"
LINES_OF_PYTHON, LINES_OF_TOML = 12, 10


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of the page with what it is shown to print."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for command, _, printed in (step.partition("\n") for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]):
            yield command, printed


class Reader:
    """Somebody who does what the page says, in an environment of their own that has what this one has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[subprocess.Popen[str]] = []
        environment = directory / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = environment / "lib" / version / "site-packages"
        (site / "of_the_tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        for name, module in (("handler-host", "host"), ("pip", "pip")):
            command = environment / "bin" / name
            command.write_text(f'#!/bin/sh\nexec "{environment}/bin/python" -m {module} "$@"\n')
            command.chmod(0o755)
        path = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
        offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self.environment = {**os.environ, **offline, "PATH": path, "XDG_DATA_HOME": str(directory / "data")}

    def run(self, command: str) -> str:
        """Do a step; return what it prints, of a server its first line."""
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
        """End the servers."""
        for server in self.running:
            server.send_signal(signal.SIGTERM)
        for server in self.running:
            server.communicate(timeout=30)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@pytest.mark.slow
def test_the_tutorial_leads_from_new_to_a_streamed_answer_and_a_fit_plugin(reader: Reader) -> None:
    text = PAGE.read_text()
    for port in ("9001", "8080"):
        text = text.replace(port, str(free_port()))
    parrot = reader.directory / "parrot"
    parrot.mkdir()
    for language, name in (("toml", "pyproject.toml"), ("python", "parrot.py")):
        (source,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        (parrot / name).write_text(source)
    (url,) = set(re.findall(r"(http://127\.0\.0\.1:\d+)/v1/chat", text))
    reader.environment["HANDLER_HOST_URL"] = url  # the page's port is the default
    done = []
    for command, shown in steps(text):
        said = reader.run(command)
        for line in filter(None, shown.splitlines()):
            pattern = ".*".join(re.escape(part) for part in line.split("…"))
            assert re.search(pattern, said), f"{command}: no {line!r} in {said}"
        done.append(command.split()[0])
    assert done.count("handler-host") == 8


def test_the_smallest_variant_has_at_most_12_lines_of_python_and_10_of_toml() -> None:
    for language, most in (("python", LINES_OF_PYTHON), ("toml", LINES_OF_TOML)):
        (source,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        assert len([line for line in source.splitlines() if line.strip()]) <= most
