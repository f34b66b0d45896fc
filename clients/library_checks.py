"""Run the script of a library against the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from clients.libraries import Library
from clients.serving import ENVIRONMENT, MEDIA_KEYS, NODE_MODULES, OK, ROOT, Finished, HostPool, has_media, is_ended

SCRIPTS = ROOT / "clients" / "scripts"
LIMIT_S = 600.0
"""For the script of a library, with the imports of the large ones on a busy machine."""
REASONING_MODELS = {"gpt_a": "gpt_a/gpt-5"}
"""Models for the scripts, where a handler's own model does not reason."""
KNOWN_MODELS = ("gpt-5", "claude-sonnet-4-5", "gemini-2.5-flash")
"""Names that all lead to the handler: some libraries look up in their own lists what a model can do."""
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "OTEL_SDK_DISABLED": "true",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def copy_scripts() -> None:
    """Copy the scripts for Node.js to its packages, which it finds only from the place of the script upwards."""
    shutil.copytree(SCRIPTS / "node", NODE_MODULES.parent / "node", dirs_exist_ok=True)


def run_library(library: Library, handler: str, hosts: HostPool, keep: Path | None) -> dict[str, str]:
    """Run the script of a library; return the result of each column."""
    target = REASONING_MODELS.get(handler, handler)
    models = "\n".join(f'"{name}" = "{target}"' for name in KNOWN_MODELS)
    with tempfile.TemporaryDirectory(prefix="clients-") as directory, hosts.borrow(models) as (stand_in, host):
        if library.script.endswith(".mjs"):
            command = ["node", str(NODE_MODULES.parent / library.script)]
        else:
            command = [str(ENVIRONMENT / library.environment / "bin" / "python"), str(SCRIPTS / library.script)]
        try:
            run = subprocess.run(
                [*command, host.url, target, *library.arguments],
                env={**os.environ, "HOME": directory, **NO_TELEMETRY},
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"plain": f"did not end within {LIMIT_S:.0f} s"}
        finished = Finished(run.stdout + run.stderr, Path(directory), list(stand_in.requests))
        if keep is not None:
            finished.write(keep, "script")
            (keep / "host.log").write_text(host.log)
        lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
        columns: dict[str, str] = json.loads(lines[-1]) if lines else {"plain": finished.why()}
        for kind in MEDIA_KEYS:
            if columns.get(kind) == OK and not has_media(finished, kind):
                columns[kind] = "lost on the way"
        if columns.get("cancel") == OK and not is_ended(finished):
            columns["cancel"] = "the provider's response went on"
    return columns
