"""Hostile plugins: what a worker can do to the host, to other workers, and with its own descendants."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
from pathlib import Path

import msgspec
import pytest

from handler_host.channel.frames import WorkerSpec
from handler_host.workers.runtime.file_rules import writable_paths
from handler_host.workers.runtime.seccomp import (
    ALLOW,
    ANY_BIT,
    ARCHITECTURES,
    AT_LEAST,
    CLONE,
    CLONE3,
    EQUAL,
    IOCTL,
    LOAD,
    PRETEND_MISSING,
    PRLIMIT64,
    REFUSE,
    REFUSED,
    RETURN,
    TIOCSTI,
    UNSHARE,
    X32_BIT,
    build_filter,
)
from tests.integration.http.serving import Host, running
from tests.support import ended, install_plugin, install_puppet, until

HOSTILE = '''
import ctypes, os, signal, socket, subprocess, sys, threading, time
from typing import Any
from handler_host.plugin import operation

def outcome(action):
    try:
        return repr(action())[:50]
    except OSError as error:
        return type(error).__name__

class Hostile:
    @operation
    async def look(self, request: dict[str, Any]) -> dict[str, Any]:
        libc = ctypes.CDLL(None, use_errno=True)
        def ptrace(pid):
            if libc.ptrace(16, pid, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "ptrace")
        def take(pid):
            if libc.syscall(438, os.pidfd_open(pid), 0, 0) < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
        return {str(pid): {
            "environ": outcome(lambda: open(f"/proc/{pid}/environ").read()),
            "mem": outcome(lambda: open(f"/proc/{pid}/mem", "rb").close()),
            "ptrace": outcome(lambda: ptrace(pid)),
            "descriptor": outcome(lambda: take(pid)),
            "signal": outcome(lambda: os.kill(pid, 0)),
        } for pid in request["pids"]}

    @operation
    async def touch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Try to read and write files."""
        def write(path):
            with open(path, "a") as file:
                file.write("x")
        return {path: {
            "read": outcome(lambda: os.listdir(path) if os.path.isdir(path) else open(path).read()),
            "write": outcome(lambda: write(path + "/new" if os.path.isdir(path) else path)),
            "link": outcome(lambda: os.link(path, "/tmp/security-link") if os.path.isfile(path) else write("/")),
        } for path in request["paths"]}

    @operation
    async def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Try system calls on another process."""
        libc = ctypes.CDLL(None, use_errno=True)
        pid, buffer = request["pid"], ctypes.create_string_buffer(64)
        def call(number, *arguments):
            if libc.syscall(number, *arguments) < 0:
                raise OSError(ctypes.get_errno(), "refused")
        def clone(flags):
            child = libc.syscall(56, flags | signal.SIGCHLD, 0, 0, 0, 0)
            if child == 0:
                os._exit(0)
            if child < 0:
                raise OSError(ctypes.get_errno(), "refused")
            os.waitpid(child, 0)
        limits = (ctypes.c_uint64 * 2)(1 << 20, 1 << 20)
        new_user, new_mounts, files = 0x10000000, 0x20000, 0x400
        terminal = os.open("/dev/null", os.O_RDONLY)
        return {
            "ptrace": outcome(lambda: call(101, 16, pid, 0, 0)),
            "process_vm_readv": outcome(lambda: call(310, pid, buffer, 1, buffer, 1, 0)),
            "prlimit": outcome(lambda: call(302, pid, 7, ctypes.byref(limits), None)),
            "bpf": outcome(lambda: call(321, 0, 0, 0)),
            "x32": outcome(lambda: call(0x40000000 + 521, 16, pid, 0, 0)),
            "perf_event_open": outcome(lambda: call(298, buffer, pid, -1, -1, 0)),
            "userfaultfd": outcome(lambda: call(323, 1)),
            "io_uring_setup": outcome(lambda: call(425, 1, ctypes.create_string_buffer(120))),
            "keyctl": outcome(lambda: call(250, 0, -3, 0)),
            "kexec_file_load": outcome(lambda: call(320, -1, -1, 0, None, 0)),
            "fsopen": outcome(lambda: call(430, b"tmpfs", 0)),
            "fsconfig": outcome(lambda: call(431, -1, 6, None, None, 0)),
            "fsmount": outcome(lambda: call(432, -1, 0, 0)),
            "fspick": outcome(lambda: call(433, -100, b"/", 0)),
            "open_tree": outcome(lambda: call(428, -100, b"/", 1)),
            "move_mount": outcome(lambda: call(429, -1, b"", -100, b"/mnt", 4)),
            "mount_setattr": outcome(lambda: call(442, -100, b"/", 0, ctypes.create_string_buffer(32), 32)),
            "chroot": outcome(lambda: call(161, b"/")),
            "syslog": outcome(lambda: call(103, 10, None, 0)),
            "unshare": outcome(lambda: call(272, new_user)),
            "unshare with a further bit": outcome(lambda: call(272, new_mounts | files)),
            "unshare files": outcome(lambda: call(272, files)),
            "clone into namespaces": outcome(lambda: clone(new_user | new_mounts)),
            "clone": outcome(lambda: clone(0)),
            "clone3": outcome(lambda: call(435, ctypes.create_string_buffer(88), 88)),
            "type into a terminal": outcome(lambda: call(16, terminal, 0x5412, buffer)),
            "type with a wide number": outcome(lambda: call(16, terminal, ctypes.c_uint64(0x7_0000_5412), buffer)),
            "paste into a terminal": outcome(lambda: call(16, terminal, 0x541C, buffer)),
            "packets": outcome(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 768).close()),
            "raw packets": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 6).close()),
            "keys of a terminal": outcome(lambda: os.close(os.open("/dev/ptmx", os.O_RDWR))),
            "own limits": outcome(lambda: call(302, 0, 7, None, limits)),
            "own limits by number": outcome(lambda: call(302, os.getpid(), 7, None, limits)),
            "thread": outcome(lambda: threading.Thread(target=int).start()),
            "child": outcome(lambda: subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout),
            "oom": outcome(lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000")),
            "own oom": outcome(lambda: open("/proc/self/oom_score_adj", "w").write("0")),
        }

    @operation
    async def daemons(self, request: dict[str, Any]) -> list[int]:
        code = "import time; time.sleep(300)"
        pids = [subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid]
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.setsid()
            if (grandchild := os.fork()) == 0:
                time.sleep(300)
                os._exit(0)
            os.write(write, str(grandchild).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return [*pids, int(os.read(read, 20))]

    @operation
    async def leave(self, request: dict[str, Any]) -> int:
        """Join the process group of a child, and ignore SIGTERM."""
        if (child := os.fork()) == 0:
            os.setpgid(0, 0)
            time.sleep(300)
            os._exit(0)
        time.sleep(0.1)
        os.setpgid(0, child)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)
'''


def landlock_abi() -> int:
    abi: int = ctypes.CDLL(None).syscall(444, None, 0, 1)
    return abi


@pytest.fixture
def root(tmp_path: Path) -> Path:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "hostile", HOSTILE, attribute="Hostile")
    return tmp_path


async def worker_of(host: Host, name: str) -> int:
    assert (await host.admin("POST", f"/handlers/{name}/load"))[0] == 200
    pid = host.supervisor.status(name).pid
    assert pid is not None
    return pid


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel cannot restrict signals")
@pytest.mark.parametrize("python", [None, sys.executable], ids=["forked", "own interpreter"])
async def test_a_worker_reaches_no_other_process(root: Path, python: str | None) -> None:
    """Neither memory, environment, descriptors nor signals of the host, the fork server and another worker."""
    policy = {"python": python} if python is not None else {}
    async with running(root, policy=policy) as host:
        other = await worker_of(host, "puppet")
        own = await worker_of(host, "hostile")
        pids = [os.getpid(), other]
        status, outcomes = await host.json("POST", "/v1/handlers/hostile/look", json={"pids": [*pids, own]})
        assert status == 200
        for pid in pids:
            assert set(outcomes[str(pid)].values()) == {"PermissionError"}, outcomes
        assert outcomes[str(own)]["signal"] == "None"


async def test_daemons_of_a_plugin_end_with_its_worker(root: Path) -> None:
    """Also those in a session of their own, and those whose parent has ended."""
    async with running(root) as host:
        other = await worker_of(host, "puppet")
        await worker_of(host, "hostile")
        _, before = await host.admin("GET", "/memory")
        status, pids = await host.json("POST", "/v1/handlers/hostile/daemons", json={})
        assert status == 200
        assert not any(map(ended, pids))
        _, after = await host.admin("GET", "/memory")
        # They count in its memory: a Python of its own, and a fork.
        assert after["workers"]["hostile"]["pss"] > before["workers"]["hostile"]["pss"] + 2_000_000
        assert (await host.admin("POST", "/handlers/hostile/unload"))[0] == 200
        await until(lambda: all(map(ended, pids)))
        assert host.supervisor.status("puppet").pid == other
        assert not ended(other)


async def test_a_worker_that_leaves_its_process_group_is_killed(root: Path) -> None:
    """By its own process ID; other workers are left alone."""
    async with running(root, policy={"stop_grace": 0.5, "drain_timeout": 0.5}) as host:
        other = await worker_of(host, "puppet")
        own = await worker_of(host, "hostile")
        dispatch = asyncio.ensure_future(host.json("POST", "/v1/handlers/hostile/leave", data="{}"))
        await until(lambda: os.getpgid(own) != own)
        assert (await host.admin("POST", "/handlers/hostile/unload?mode=force"))[0] == 200
        await until(lambda: ended(own))
        assert (await dispatch)[0] >= 500
        assert not ended(other)


@pytest.mark.skipif(landlock_abi() < 3, reason="this kernel cannot restrict files")
async def test_a_worker_reads_and_writes_its_own_files_only(root: Path) -> None:
    """Not the packages of other plugins, the data of other handlers, the configuration, or keys of the user."""
    files = root.parent / f"{root.name}-files"  # the directory of plugins is readable
    for name in ("temporary", "data/puppet", "data/hostile", "keys", "prompts", "exports", "given"):
        (files / name).mkdir(parents=True)
    secret = files / "keys/consumers.toml"
    secret.write_text("digests")
    (files / "given/input.txt").write_text("mine")
    config = {
        "settings": {"path": str(files / "given/input.txt")},
        "read_paths": (files / "prompts",),
        "write_paths": (files / "exports",),
    }
    environ = {"TMPDIR": str(files / "temporary"), "PATH": os.environ["PATH"]}
    options: dict[str, object] = {"handlers": {"hostile": config}, "data_dir": files / "data"}
    async with running(root, environ=environ, **options) as host:
        paths = {name: str(files / name) for name in ("temporary", "data/puppet", "data/hostile", "prompts", "exports")}
        paths |= {"secret": str(secret), "own setting": str(files / "given/input.txt"), "plugin": str(root / "puppet")}
        paths |= {"python": os.__file__, "host": str(Path(ctypes.__file__)), "passwords": "/etc/shadow"}
        body = {"paths": list(paths.values())}
        status, outcomes = await host.json("POST", "/v1/handlers/hostile/touch", json=body)
        assert status == 200, outcomes
        found = {name: outcomes[path] for name, path in paths.items()}
        for name in ("data/puppet", "secret", "passwords"):
            assert found[name]["read"] == "PermissionError", name
        for name in ("temporary", "data/hostile", "prompts", "exports", "own setting", "plugin", "python"):
            assert found[name]["read"] != "PermissionError", name
        for name in ("data/puppet", "secret", "passwords", "prompts", "plugin", "python", "host"):
            assert found[name]["write"] == "PermissionError", name
        for name in ("temporary", "data/hostile", "exports", "own setting"):
            assert found[name]["write"] == "None", name
        assert found["secret"]["link"] in ("PermissionError", "OSError")
        assert secret.read_text() == "digests"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the plugin has the numbers of x86_64")
async def test_system_calls_on_other_processes_are_refused(root: Path) -> None:
    """Where Landlock has no rule for them: limits, and parts of the kernel that no plugin needs."""
    async with running(root) as host:
        other = await worker_of(host, "puppet")
        status, outcomes = await host.json("POST", "/v1/handlers/hostile/call", json={"pid": other})
        assert status == 200
        refused = {name for name, outcome in outcomes.items() if outcome == "PermissionError"}
        allowed = {"own limits", "own limits by number", "thread", "clone", "unshare files", "child", "clone3"}
        of_landlock = {"oom", "own oom", "keys of a terminal"}
        assert refused | of_landlock == set(outcomes) - allowed, outcomes
        if landlock_abi() >= 1:
            assert refused >= of_landlock
        # The C library falls back to clone, whose flags the filter can read.
        assert outcomes.pop("clone3") == "OSError"
        assert outcomes["child"] == repr(b"1\n")
        assert {outcomes[name] for name in allowed & set(outcomes) - {"child"}} == {"None"}, outcomes
        assert "system calls" in (host.supervisor.status("hostile").confinement or ())


def filter_mode(pid: int) -> str:
    """Return whether a seccomp filter holds for a process (2), from the kernel."""
    return Path(f"/proc/{pid}/status").read_text().partition("Seccomp:\t")[2][0]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_the_fork_server_confines_itself_for_its_workers(root: Path) -> None:
    """Once, so that workers inherit it; after a reload that turns it off, another fork server serves."""
    async with running(root) as host:
        server = parent_of(await worker_of(host, "puppet"))
        assert filter_mode(server) == "2"
        config = host.supervisor.config
        workers = msgspec.structs.replace(config.workers, confine="off")
        await host.supervisor.reconfigure(msgspec.structs.replace(config, workers=workers))
        second = parent_of(await worker_of(host, "hostile"))
        assert second != server
        assert filter_mode(second) == filter_mode(os.getpid())
        assert host.supervisor.status("hostile").confinement == []


def filtered(code: bytes, mark: int, number: int, *arguments: int) -> int:
    """Run the program of a filter for a system call, as the kernel does."""
    data = struct.pack("<IIQ6Q", number, mark, 0, *arguments, *[0] * (6 - len(arguments)))
    program = [struct.unpack("HBBI", code[place : place + 8]) for place in range(0, len(code), 8)]
    place = accumulator = 0
    while True:
        operation, if_true, if_false, value = program[place]
        place += 1
        if operation == RETURN:
            return int(value)
        if operation == LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        else:
            holds = {EQUAL: accumulator == value, AT_LEAST: accumulator >= value, ANY_BIT: accumulator & value}
            place += if_true if holds[operation] else if_false


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_decides_by_number_and_arguments(machine: str) -> None:
    """On each architecture, also on those that this machine does not have."""
    mark, column, _ = ARCHITECTURES[machine]
    code = build_filter(mark, column)
    for call in REFUSED.values():
        assert filtered(code, mark, call[column]) == REFUSE
    allowed = set(range(470)) - {call[column] for call in (*REFUSED.values(), CLONE3)}
    assert {filtered(code, mark, number) for number in allowed} == {ALLOW}
    assert filtered(code, mark, CLONE3[column]) == PRETEND_MISSING
    assert filtered(code, mark ^ 1, 0) == filtered(code, mark, X32_BIT) == REFUSE
    prlimit, ioctl, wide = PRLIMIT64[column], IOCTL[column], 1 << 32
    assert filtered(code, mark, prlimit, 0, 7, 0x1000) == filtered(code, mark, prlimit, 42, 7, 0) == ALLOW
    assert filtered(code, mark, prlimit, 42, 7, 0x1000) == filtered(code, mark, prlimit, 42, 7, wide) == REFUSE
    assert filtered(code, mark, ioctl, 0, TIOCSTI) == filtered(code, mark, ioctl, 0, TIOCSTI | wide) == REFUSE
    for call in (CLONE, UNSHARE):
        assert filtered(code, mark, call[column], 0x10000000) == filtered(code, mark, call[column], 0x20400) == REFUSE
        assert filtered(code, mark, call[column], 0x400) == ALLOW


async def test_a_refused_file_is_explained(root: Path) -> None:
    """An activation that cannot read a file names the settings that add it."""
    files = root.parent / f"{root.name}-files"  # the directory of plugins is readable
    (files / "temporary").mkdir(parents=True)
    (files / "words.txt").write_text("words")
    source = f"open({str(files / 'words.txt')!r}).close()\n" + HOSTILE
    install_plugin(root, "reader", source, attribute="Hostile")
    environ = {"TMPDIR": str(files / "temporary"), "PATH": os.environ["PATH"]}
    async with running(root, environ=environ) as host:
        status, body = await host.admin("POST", "/handlers/reader/load")
        assert status == 502
        assert "see read_paths and write_paths" in body["error"]["message"]


def test_the_paths_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute ones, those in the home directory, and files of the working directory; no other text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/operator")
    (tmp_path / "account.json").write_text("{}")
    (tmp_path / "data").mkdir()
    settings = {
        "a": "~/models/a.gguf",
        "b": ["account.json", "data", "missing", "/"],
        "c": {"d": "/srv/x\0y", "e": "e" * 500},
    }
    spec = WorkerSpec(handler="h", entry_point="h:H", distribution="h", version="1", config=settings)
    before = WorkerSpec(handler="h", entry_point="h:H", distribution="h", version="1")
    added = set(writable_paths(spec)) - set(writable_paths(before))
    # The temporary directory of this test may be below a writable one already.
    assert added - {str(tmp_path / "account.json")} == {"/home/operator/models/a.gguf", "/srv/x\0y"}
    assert "/" not in writable_paths(spec)
