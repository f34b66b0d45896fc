"""The engine: a Ray driver that places workers on nodes, each in an actor that belongs to this driver alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, TypeVar

from handler_host.workers.remote.engine import EngineError, ExitStatus, Finding, PlaceReport, WorkerRequest
from handler_host_ray.machine import oversized
from handler_host_ray.options import DEFAULT_PORT, RayOptions, read_options

Result = TypeVar("Result")

CALL_TIMEOUT = 10.0
"""Seconds for one request to the cluster's head."""
CONNECT_TIMEOUT = 40.0
PROBE_TIMEOUT = 2.0
MAX_FAILED_PROBES = 3
"""Probes of the head that may fail one after the other, a second apart, before it counts as gone."""
PLACES_INTERVAL = 2.0
"""Seconds between two requests for the nodes; the host asks more often."""


class RayWorker:
    """A worker in its actor; ``on_end`` is called when it has exited."""

    def __init__(self, actor: Any, on_end: Callable[[], None]) -> None:
        self._actor = actor
        self._on_end = on_end

    async def wait(self) -> ExitStatus:
        """Wait until the worker has exited; ``lost`` if its actor, its node or the cluster is gone."""
        try:
            code, signal, maxrss = await self._actor.wait.remote()
        except Exception as error:  # noqa: BLE001 - Ray has a class for each way in which an actor can be lost
            return ExitStatus(lost=True, detail=f"lost with its Ray actor ({_summary(error)})")
        finally:
            self._on_end()
        _kill_actor(self._actor)
        return ExitStatus(code, signal, maxrss)

    async def kill(self) -> None:
        """Kill the worker, so that its exit is reported; then its actor."""
        with contextlib.suppress(Exception):  # the actor is gone, and the worker with it
            async with asyncio.timeout(CALL_TIMEOUT):
                await self._actor.kill.remote()
                return
        _kill_actor(self._actor)


class RayEngine:
    """Runs workers on the nodes of a Ray cluster. This machine must be one of its nodes.

    Memory and resources are reserved twice: in the host's ledger of the node, which decides, and in Ray's
    arithmetic, so that other users of the cluster are counted.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options: RayOptions = read_options(options)
        self._failed_probes = 0
        self._places: list[PlaceReport] = []
        self._places_at = 0.0
        self._held: dict[str, list[Mapping[str, float]]] = {}
        """What Ray counts for the workers of this host, by node."""
        self._ids: dict[str, str] = {}
        """IDs of nodes by the names of their places."""
        self._machines: dict[str, int] = {}
        """Bytes of memory that machines really have, by place; known from their first worker on."""
        self._head: tuple[str, int] | None = None

    async def start(self) -> str:
        """Connect to the cluster; return the address of this machine in it."""
        self._options.check_files()
        os.environ.update(self._options.environment())
        try:
            import ray
        except ImportError as error:
            text = f"Ray cannot be imported in {sys.prefix}: {error}; install handler-host-ray there again"
            raise EngineError(text, is_final=True) from error
        address = self._options.address
        if address != "auto" and "://" not in address:
            await _check_address(address)  # Ray itself tries for long
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await asyncio.to_thread(self._init)
        except EngineError:
            raise
        except Exception as error:
            raise _connection_error(error, address) from error
        gcs_address = str(ray.get_runtime_context().gcs_address)
        host, _, port = gcs_address.rpartition(":")
        self._head = (host, int(port or DEFAULT_PORT))
        return str(ray.util.get_node_ip_address())

    def _init(self) -> None:
        import ray

        try:
            ray.init(
                address=self._options.address,
                namespace=self._options.namespace,
                runtime_env=self._options.runtime_env,  # of the job: Ray uploads files for a job only
                log_to_driver=False,
                configure_logging=False,
            )
        except (ValueError, TypeError) as error:
            if not self._options.runtime_env:
                raise
            raise EngineError(f"launchers.ray.runtime_env: {error}; correct it", is_final=True) from error

    async def places(self) -> Sequence[PlaceReport]:
        """Return the nodes that are alive."""
        await self._probe_head()
        now = asyncio.get_running_loop().time()
        if now - self._places_at >= PLACES_INTERVAL:
            self._places = await self._request(self._read_nodes)
            self._places_at = now
        return self._places

    async def launch(self, request: WorkerRequest) -> RayWorker:
        """Start a worker in a new actor on its node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from handler_host_ray.node_actor import NodeActor

        node = self._ids.get(request.place)
        if node is None:
            raise EngineError(f"node {request.place} has left the cluster")
        resources = dict(request.resources)
        # Before the actor exists: its resources must never count as those of other users.
        held, of_node = {**resources, "memory": float(request.memory)}, self._held.setdefault(request.place, [])
        of_node.append(held)
        try:
            actor = NodeActor.options(
                num_cpus=resources.pop("CPU", 0),
                num_gpus=resources.pop("GPU", 0),
                memory=request.memory,
                resources=resources,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
                runtime_env=self._options.runtime_envs.get(request.handler, {}),
            ).remote()
        except ValueError as error:
            of_node.remove(held)
            text = (
                f"launchers.ray.runtime_envs.{request.handler}: {error}; use pip or a URI there, or set "
                "launchers.ray.runtime_env, whose directories and wheels Ray uploads"
            )
            raise EngineError(text, is_final=True) from error
        try:
            self._note_machine(request.place, await actor.start.remote(request.connection))
        except asyncio.CancelledError:
            of_node.remove(held)
            _kill_actor(actor)
            raise
        except Exception as error:
            of_node.remove(held)
            _kill_actor(actor)
            raise EngineError(f"no worker on {request.place}: {_summary(error)}") from error
        return RayWorker(actor, lambda: of_node.remove(held))

    async def examine(self) -> Sequence[Finding]:
        """Return the findings about the cluster for ``handler-host doctor``."""
        import ray

        from handler_host_ray.examination import examine

        await self.places()
        return await asyncio.to_thread(lambda: list(examine(ray, self._options, self._places, self._ids)))

    async def close(self) -> None:
        """Disconnect; Ray ends the actors of a driver that is gone."""
        import ray

        await asyncio.to_thread(ray.shutdown)

    async def _request(self, work: Callable[[], Result]) -> Result:
        """Return the result of a blocking request to the cluster; raises :class:`EngineError` if it hangs or fails."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await asyncio.to_thread(work)
        except TimeoutError:
            raise EngineError(f"the head of the cluster does not respond within {CALL_TIMEOUT:g} s") from None
        except Exception as error:
            raise EngineError(f"the cluster refused a request: {_summary(error)}") from error

    async def _probe_head(self) -> None:
        """Raise :class:`EngineError` if the head is gone: Ray itself would end this process without a word."""
        assert self._head is not None, "connected"
        try:
            await _probe(*self._head)
        except (OSError, TimeoutError) as error:
            self._failed_probes += 1
            if self._failed_probes >= MAX_FAILED_PROBES:
                host, port = self._head
                raise EngineError(f"the head of the cluster at {host}:{port} is gone; start it again") from error
        else:
            self._failed_probes = 0

    def _read_nodes(self) -> list[PlaceReport]:
        import ray
        from ray._private.state import available_resources_per_node

        available = available_resources_per_node()
        reports = []
        ids = {}
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            name, total = place_name(node), node["Resources"]
            memory = int(total.get("memory", 0))
            ids[name] = node["NodeID"]
            own: dict[str, float] = {}
            for held in tuple(self._held.get(name, ())):  # this is a thread; the event loop changes the list
                own = {key: own.get(key, 0.0) + held.get(key, 0.0) for key in own.keys() | held.keys()}
            free = available.get(node["NodeID"], {})
            others = {key: max(0.0, total[key] - free.get(key, 0.0) - own.get(key, 0.0)) for key in total}
            reports.append(
                PlaceReport(
                    name=name,
                    limit=min(memory, self._machines.get(name, memory)),
                    external_usage=int(others.get("memory", 0)),
                    resources=_named(total),
                    external_resources=_named(others),
                )
            )
        self._ids = ids
        return reports

    def _note_machine(self, place: str, memory: int) -> None:
        """Note the bytes of memory that the machine of a place has; warn if its node reports more."""
        reported = next((report.limit for report in self._places if report.name == place), 0)
        if reported > memory:
            sys.stderr.write(f"node {place}: {oversized(reported, memory)}\n")  # the host logs it
            self._places_at = 0.0
        self._machines[place] = memory


HIDDEN = frozenset({"memory", "object_store_memory"})
"""Resources of Ray that a handler does not ask for by name."""


def _named(resources: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in resources.items() if name not in HIDDEN and ":" not in name}


def place_name(node: Mapping[str, Any]) -> str:
    """Return the name of a node as operators see it."""
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}"


def _kill_actor(actor: Any) -> None:
    import ray

    with contextlib.suppress(Exception):  # it is gone already, or the cluster is
        ray.kill(actor, no_restart=True)


def _summary(error: Exception) -> str:
    """Return the first meaningful line of Ray's long texts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith(("The actor is dead because", "The actor died because"))]
    return f"{type(error).__name__}: {(causes or lines or ['no text'])[0][:300]}"


def _connection_error(error: Exception, address: str) -> EngineError:
    """Return one clear error for a cluster that cannot be joined."""
    text = str(error)
    if "ersion mismatch" in text:
        own = f"Python {sys.version.split()[0]}"
        # Not `ray.__version__`: without Ray, `import ray` succeeds with any directory of that name on the path.
        with contextlib.suppress(metadata.PackageNotFoundError):
            own = f"Ray {metadata.version('ray')}, {own}"
        details = " ".join(text.split())
        return EngineError(
            f"the cluster at {address} has other versions than this machine ({own}): {details[:400]}; install the same "
            "versions, or name an interpreter that has them (launchers.ray.python)",
            is_final=True,
        )
    if isinstance(error, ConnectionError | TimeoutError):
        return EngineError(
            f"the cluster at {address} responds, but refuses this machine or hangs; check its token "
            "(launchers.ray.auth_token_file), its TLS (launchers.ray.tls_ca), and its log"
        )
    return EngineError(
        f"the cluster at {address} cannot be joined: {_summary(error)}; start Ray on this machine "
        f"(`ray start --address={address} --block`), or correct launchers.ray.address"
    )


async def _check_address(address: str) -> None:
    """Raise :class:`EngineError` if nothing listens on the address."""
    host, _, port = address.rpartition(":")
    try:
        await _probe(host, int(port))
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error) or "no response"
        text = f"the cluster at {address} cannot be reached ({reason}); start it, or correct launchers.ray.address"
        raise EngineError(text) from None


async def _probe(host: str, port: int) -> None:
    """Connect to an address and disconnect; raises ``OSError``, and ``TimeoutError`` after ``PROBE_TIMEOUT``."""
    async with asyncio.timeout(PROBE_TIMEOUT):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()
