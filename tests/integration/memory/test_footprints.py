"""The file of learned memory in a process that is killed while it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from handler_host.memory.footprints import FORMAT, FootprintStore

SUBJECT = ("gpt_a", "handler-host-gpt-a", "1.0")


def test_a_crash_during_a_write_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process is killed again and again while it writes: a reader finds a whole file each time."""
    path = tmp_path / "memory.json"
    store = FootprintStore(path)
    store.record_usage(SUBJECT, peak=80, steady=60)
    store.save(store.snapshot())
    script = (
        "import sys; from pathlib import Path; from handler_host.memory.footprints import FootprintStore\n"
        "learned = FootprintStore(Path(sys.argv[1]))\n"
        "for number in range(400): learned.record_usage((f'handler{number}', 'd', '1'), peak=number, steady=1)\n"
        "print('writes', flush=True)\n"
        "while True: learned.save(learned.snapshot())\n"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writes\n"
            content = json.loads(path.read_bytes())
            process.kill()
        assert content["format"] == FORMAT
        assert len(json.loads(path.read_bytes())["footprints"]) in (1, 400)
