"""The atomic replacement of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handler_host._internal.atomic_write import replace_file


class TestReplaceFile:
    def test_content_and_mode(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "file"
        replace_file(path, b"first")
        replace_file(path, b"second", mode=0o640)
        assert path.read_bytes() == b"second"
        assert path.stat().st_mode & 0o777 == 0o640
        assert os.listdir(path.parent) == ["file"]

    def test_failure_leaves_no_temporary_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").mkdir()
        with pytest.raises(OSError):  # noqa: PT011 - the kernel's own error
            replace_file(tmp_path / "file", b"content")
        assert os.listdir(tmp_path) == ["file"]
