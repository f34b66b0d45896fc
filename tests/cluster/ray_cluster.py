"""A Ray cluster in network namespaces: the head on this machine, each further node in a namespace of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import MemoryConfig
from handler_host.memory.cgroups import read_limit

ROOT = Path(__file__).parents[2]
RAY_PYTHON = ROOT / ".venv-ray" / "bin" / "python"
INSTALLED = ROOT / ".venv-ray" / ".installed"
MB = 1024**2
NEEDED_MEMORY = 4096 * MB
"""Bytes for a head, a node and a host; Ray takes 200 to 700 MB for each node."""
START_TIMEOUT = 60.0


def why_not() -> str | None:
    """Return why there can be no cluster here; None if there can."""
    if not INSTALLED.exists():
        return "Ray is not installed: `make cluster` installs it into .venv-ray"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in (("ip", "iproute2"), ("openssl", "openssl")):
        if shutil.which(program) is None:
            return f"the network and certificates need `{program}` ({package})"
    if read_limit(MemoryConfig()).bytes < NEEDED_MEMORY:
        return f"a cluster needs {NEEDED_MEMORY // MB} MB of memory"
    return _missing_right()


def _missing_right() -> str | None:
    """Return what the machine refuses of a cluster's network and mounts; None if it allows all."""
    name = f"hhp{os.getpid()}"
    commands = [
        f"ip netns add {name}",
        f"ip link add {name} type bridge",
        f"ip link add {name}v type veth peer name eth0 netns {name}",
        f"ip link set {name}v master {name} up",
        f"ip netns exec {name} mount -t tmpfs none /mnt",
    ]
    try:
        for command in commands:
            result = subprocess.run(command.split(), capture_output=True, text=True)
            if result.returncode != 0:
                return f"this machine refuses `{command}`: {result.stderr.strip()}"
        return None
    finally:
        for command in (f"ip link del {name}v", f"ip link del {name}", f"ip netns del {name}"):
            subprocess.run(command.split(), capture_output=True, check=False)


class Node:
    """One node: its processes, and its link unless it is the head."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, link: str | None) -> None:
        self.process = process
        self.address = address
        self._link = link

    @property
    def raylet(self) -> int:
        """The process ID of its raylet."""
        for pid in descendants(self.process.pid):
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe").endswith("/raylet"):
                    return pid
        raise AssertionError("the node has no raylet")

    def cut(self) -> None:
        """Cut its link."""
        assert self._link is not None, "not the head"
        run("ip", "link", "set", self._link, "down")

    def mend(self) -> None:
        """Restore its link."""
        assert self._link is not None, "not the head"
        run("ip", "link", "set", self._link, "up")

    def kill(self) -> None:
        """Kill all its processes."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class RayCluster:
    """The head at ``address``, and further nodes, with token and TLS.

    ``directory`` has a short path, as Ray needs it for its sockets. The nodes do not see the files in ``host_only``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tag = f"hh{os.getpid() % 100000}"
        # Of the network for benchmarks (RFC 2544): no machine, container or cluster around has an address there.
        self.subnet = f"198.18.{os.getpid() % 256}"
        self.host = f"{self.subnet}.254"
        self.host_only = directory / "host-only"
        self.host_only.mkdir()
        self.token_file = directory / "token"
        self.token_file.write_text(secrets.token_hex(32))
        names = ",".join(["DNS:localhost", "IP:127.0.0.1", *(f"IP:{self.subnet}.{number}" for number in range(1, 255))])
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ray"]
        files = ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
        subprocess.run([*command, "-addext", f"subjectAltName={names}", *files], check=True, capture_output=True)
        self.nodes: list[Node] = []
        self.head: Node | None = None
        self._namespaces = 0
        run("ip", "link", "add", self.tag, "type", "bridge")
        run("ip", "addr", "add", f"{self.host}/24", "dev", self.tag)
        run("ip", "link", "set", self.tag, "up")
        with socket.socket() as free:  # Ray's own default is also that of a Redis server
            free.bind((self.host, 0))
            self.port: int = free.getsockname()[1]
        self.address = f"{self.host}:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """The keys of ``[launchers.ray]`` for this cluster."""
        certificate = str(self.directory / "cert.pem")
        return {
            "address": self.address,
            "python": str(RAY_PYTHON),
            "auth_token_file": str(self.directory / "token"),
            "tls_ca": certificate,
            "tls_cert": certificate,
            "tls_key": str(self.directory / "key.pem"),
        }

    @property
    def pids(self) -> set[int]:
        """The processes that this one has started."""
        nodes = [*self.nodes, *([self.head] if self.head is not None else [])]
        return {node.process.pid for node in nodes}

    def start_head(self) -> None:
        """Start the head, which takes no worker: it has no memory and no CPU for one."""
        arguments = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.directory}/ray"]
        arguments += [*self._sizes(0, 0, {}), f"--node-ip-address={self.host}"]
        self.head = self._start([], arguments, "head", self.host, None)

    def add_node(self, memory: int, resources: Mapping[str, float] | None = None) -> Node:
        """Start a node in a new namespace."""
        self._namespaces += 1
        number = self._namespaces
        name, link, address = f"{self.tag}n{number}", f"{self.tag}v{number}", f"{self.subnet}.{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", link, "master", self.tag, "up")
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            run("ip", "-n", name, "link", "set", device, "up")
        arguments = [
            f"--address={self.address}",
            f"--node-ip-address={address}",
            *self._sizes(memory, 1, resources or {}),
        ]
        hide = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(self.host_only)]
        node = self._start(["ip", "netns", "exec", name, *hide], arguments, f"node{number}", address, link)
        self.nodes.append(node)
        return node

    def _start(self, prefix: list[str], arguments: list[str], log: str, address: str, link: str | None) -> Node:
        """Start a node, twice if necessary: Ray gives it 30 s, which a busy machine may need for the imports."""
        node = Node(self._ray(prefix, arguments, log), address, link)
        if not self._has_started(log):
            node.kill()
            node = Node(self._ray(prefix, arguments, log), address, link)
            if not self._has_started(log):
                node.kill()
                pytest.skip(
                    f"Ray does not start on this machine: {(self.directory / f'{log}.log').read_text()[-2000:]}"
                )
        return node

    def close(self) -> None:
        """Kill all nodes, and remove the network."""
        for node in [*self.nodes, *([self.head] if self.head is not None else [])]:
            node.kill()
        for number in range(1, self._namespaces + 1):
            subprocess.run(["ip", "netns", "del", f"{self.tag}n{number}"], check=False)
        run("ip", "link", "del", self.tag)

    def _sizes(self, memory: int, cpus: int, resources: Mapping[str, float]) -> list[str]:
        listed = ", ".join(f'"{name}": {amount}' for name, amount in resources.items())
        sizes = [f"--num-cpus={cpus}", f"--object-store-memory={80 * MB}", f"--resources={{{listed}}}"]
        return [*sizes, f"--memory={max(1, memory)}"]

    def _ray(self, prefix: list[str], arguments: list[str], log: str) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USE_TLS": "1",
            "RAY_TLS_CA_CERT": str(self.directory / "cert.pem"),
            "RAY_TLS_SERVER_CERT": str(self.directory / "cert.pem"),
            "RAY_TLS_SERVER_KEY": str(self.directory / "key.pem"),
            # A cut link counts within seconds; Ray's defaults are made for slow networks.
            "RAY_health_check_initial_delay_ms": "10000",
            "RAY_health_check_period_ms": "2000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        }
        command = [*prefix, str(RAY_PYTHON.parent / "ray"), "start", *arguments, "--disable-usage-stats", "--block"]
        with (self.directory / f"{log}.log").open("wb") as output:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
            )

    def _has_started(self, log: str) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while "Ray runtime started" not in (text := (self.directory / f"{log}.log").read_text()):
            if "Traceback" in text or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


@contextmanager
def running_cluster() -> Iterator[RayCluster]:
    """Run a cluster that has its head; skip the test if this machine cannot."""
    if reason := why_not():
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="hh", dir="/tmp"))
    cluster = RayCluster(directory)
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(directory, ignore_errors=True)


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


def descendants(pid: int) -> list[int]:
    """Return the process IDs of all descendants of a process."""
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()):
                found += [child, *descendants(child)]
    return found
