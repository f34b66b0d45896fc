"""The request of ``handler-host dispatch``, from the words after the operation."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from handler_host.cli.commands.dispatch import request_body
from handler_host.cli.failure import USAGE, Failure


class TestRequestBody:
    @pytest.mark.parametrize(
        ("words", "value"),
        [
            ([], {}),
            (['{"a": [1, null]}'], {"a": [1, None]}),
            (["[1]"], [1]),
            (['"a=b"'], "a=b"),
            (["--to", "google", "--dry-run"], {"to": "google", "dry_run": True}),
            (["--dry-run", "--to", "google"], {"dry_run": True, "to": "google"}),
            (["to=google", "rows=3", 'deep={"x": 1}'], {"to": "google", "rows": 3, "deep": {"x": 1}}),
            (["--text=--x", "--by", "-5", "empty="], {"text": "--x", "by": -5, "empty": ""}),
            (['--id="42"', "--note", "two words"], {"id": "42", "note": "two words"}),
            (["--row", "a", "--row", "b", "--row", "c"], {"row": ["a", "b", "c"]}),
        ],
    )
    def test_words(self, words: list[str], value: object) -> None:
        assert json.loads(request_body(words)) == value

    @pytest.mark.parametrize("words", [["{"], ["hello"], ["--", "x"], ["a=1", "b"], ["@/no/such/file"]])
    def test_invalid_words(self, words: list[str]) -> None:
        with pytest.raises(Failure) as caught:
            request_body(words)
        assert caught.value.status == USAGE

    def test_document_is_passed_on_unchanged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Numbers that Python would round, and repeated keys, are the handler's business."""
        text = b'{"n": 1.00000000000000000001, "n": 2}'
        (tmp_path / "request.json").write_bytes(text)
        assert request_body([f"@{tmp_path}/request.json"]) == text
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert request_body(["-"]) == text
