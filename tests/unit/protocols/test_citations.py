"""Citations of a text: from each provider's form to each client's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from gpt_b.events import EventDecoder
from gpt_c.decoder import ChunkDecoder
from gpt_c.documents import chunks_of
from gpt_d.chunks import add_annotations
from handler_host.chat import (
    ChatChunk,
    Citation,
    CitationChunk,
    CompletionDecoder,
    FinishChunk,
    TextChunk,
    ToolCallChunk,
    accumulate,
    to_chunks,
)
from handler_host.protocols.anthropic.encoder import EventEncoder
from handler_host.protocols.anthropic.requests import decode_message
from handler_host.protocols.anthropic.responses import message
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini.encoder import ChunkEncoder as GeminiEncoder
from handler_host.protocols.gemini.encoder import response as gemini_response
from handler_host.protocols.openai.encoder import ChunkEncoder as OpenAIEncoder
from handler_host.protocols.openai.responses import completion
from handler_host.protocols.openai_responses.encoder import ResponseEncoder
from handler_host.protocols.openai_responses.requests import decode_request

TEXT = "Bär: grün. Fin."
PAGE = Citation(url="https://a.example", title="Bears", quote="It is green.", start_index=5, end_index=9)
"""A source of ``grün``."""
UNPLACED = Citation(url="https://b.example")
DOCUMENT = Citation(title="Notes", quote="Fin", start_index=11, end_index=15)
CHUNKS: list[ChatChunk] = [
    TextChunk(text=TEXT[:10]),
    CitationChunk(citation=PAGE),
    TextChunk(text=TEXT[10:]),
    CitationChunk(citation=UNPLACED),
    CitationChunk(citation=DOCUMENT),
    FinishChunk(reason="stop"),
]
WHOLE = accumulate(CHUNKS)
OPENAI = [
    {"type": "url_citation", "start_index": 5, "end_index": 9, "title": "Bears", "url": "https://a.example"},
    {
        "type": "url_citation",
        "start_index": 0,
        "end_index": 15,
        "title": "https://b.example",
        "url": "https://b.example",
    },
]
"""Those of Responses; chat completions have the fields after ``type`` in an object of their own."""
ANTHROPIC = [
    {
        "type": "web_search_result_location",
        "cited_text": "It is green.",
        "encrypted_index": "",
        "title": "Bears",
        "url": "https://a.example",
    },
    {
        "type": "web_search_result_location",
        "cited_text": "",
        "encrypted_index": "",
        "title": None,
        "url": "https://b.example",
    },
]


def plain(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def nested(annotation: dict[str, Any]) -> dict[str, Any]:
    """Return an annotation of Responses as chat completions have it."""
    return {"type": "url_citation", "url_citation": {name: annotation[name] for name in annotation if name != "type"}}


def citations_of(chunks: Iterable[ChatChunk]) -> list[Citation]:
    return [chunk.citation for chunk in chunks if isinstance(chunk, CitationChunk)]


class TestFromProviders:
    def test_a_whole_response_has_all_of_them(self) -> None:
        assert WHOLE.citations == [PAGE, UNPLACED, DOCUMENT]
        assert accumulate(to_chunks(WHOLE)) == WHOLE

    @pytest.mark.parametrize("kind", ["delta", "message"])
    def test_openais_annotations(self, kind: str) -> None:
        annotations = [nested(OPENAI[0]), {"type": "file_citation", "file_citation": {"file_id": "f"}}, "no"]
        part = {"content": TEXT, "annotations": annotations}
        document = {"choices": [{"index": 0, kind: part, "finish_reason": "stop"}]}
        decoder = CompletionDecoder()
        expected = msgspec.structs.replace(PAGE, quote=None)
        assert decoder.chunks(document) == [TextChunk(text=TEXT), CitationChunk(citation=expected)]
        repeated = {"choices": [{"index": 0, "message": part}]}
        assert decoder.chunks(repeated) == [], "some servers repeat the message at the end"

    def test_anthropics_citations_stand_for_their_block(self) -> None:
        location = {"type": "char_location", "cited_text": "Fin", "document_index": 0, "document_title": "Notes"}
        blocks: list[dict[str, Any]] = [
            {"type": "text", "text": "Bär: "},
            {"type": "text", "text": "grün", "citations": ANTHROPIC[:1]},
            {"type": "text", "text": ". ", "citations": None},
            {"type": "text", "text": "Fin.", "citations": [location]},
        ]
        whole = {"type": "message", "content": blocks, "stop_reason": "end_turn"}
        assert citations_of(EventDecoder().chunks(whole)) == [PAGE, DOCUMENT]
        events: list[dict[str, Any]] = []
        for index, block in enumerate(blocks):
            empty = {"type": "text", "text": "", "citations": []}
            events.append({"type": "content_block_start", "index": index, "content_block": empty})
            for citation in block.get("citations") or ():
                delta = {"type": "citations_delta", "citation": citation}
                events.append({"type": "content_block_delta", "index": index, "delta": delta})
            delta = {"type": "text_delta", "text": block["text"]}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
            events.append({"type": "content_block_stop", "index": index})
        decoder = EventDecoder()
        assert citations_of(chunk for event in events for chunk in decoder.chunks(event)) == [PAGE, DOCUMENT]

    @pytest.mark.sdks
    def test_geminis_places_in_bytes_become_characters(self) -> None:
        grounding = {
            "groundingChunks": [
                {"web": {"uri": "https://a.example", "title": "Bears"}},
                {"web": {"uri": "https://b.example"}},
                {"retrievedContext": {"title": "Notes", "text": "Fin"}},
            ],
            "groundingSupports": [
                {"segment": {"startIndex": 6, "endIndex": 11, "text": "grün"}, "groundingChunkIndices": [0]},
                # In the second part of the text, as its own words show.
                {"segment": {"partIndex": 1, "endIndex": 4, "text": "Fin."}, "groundingChunkIndices": [2]},
            ],
        }
        recited = {"citationSources": [{"startIndex": 6, "endIndex": 11, "uri": "https://c.example"}]}
        parts = [{"content": {"parts": [{"text": TEXT[:11]}]}, "citationMetadata": recited}]
        parts.append({"content": {"parts": [{"text": TEXT[11:]}]}, "groundingMetadata": grounding})
        parts.append({"content": {"parts": []}, "groundingMetadata": grounding, "finishReason": "STOP"})
        decoder = ChunkDecoder(1)
        chunks = [chunk for part in parts for chunk in decoder.chunks(*chunks_of({"candidates": [part]}))]
        assert citations_of([*chunks, *decoder.last()]) == [
            Citation(url="https://c.example", start_index=5, end_index=9),
            msgspec.structs.replace(PAGE, quote=None),
            UNPLACED,
            DOCUMENT,
        ]

    @pytest.mark.sdks
    @pytest.mark.parametrize("place", [{"startIndex": 3, "endIndex": 99}, {"startIndex": 4, "endIndex": 2}, {}])
    def test_a_place_outside_of_the_text_is_left_out(self, place: dict[str, int]) -> None:
        sources = {"citationSources": [{**place, "uri": "https://b.example"}]}
        candidate = {"content": {"parts": [{"text": "Hi"}]}, "citationMetadata": sources, "finishReason": "STOP"}
        decoder = ChunkDecoder(1)
        decoder.chunks(*chunks_of({"candidates": [candidate]}))
        assert citations_of(decoder.last()) == [UNPLACED]

    @pytest.mark.sdks
    @pytest.mark.parametrize(
        "metadata", ["no", {"groundingChunks": [7]}, {"groundingSupports": [{"groundingChunkIndices": [[1]]}]}]
    )
    def test_metadata_of_another_form_do_not_end_a_good_response(self, metadata: Any) -> None:
        (chunk,) = chunks_of({"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "groundingMetadata": metadata}]})
        assert (chunk.text, chunk.sources) == ("Hi", ())

    @pytest.mark.parametrize(
        "fields",
        [
            {"citations": [{"start": 0, "end": 3, "text": "Bär", "sources": []}]},  # Cohere's
            {"citations": ["https://a.example"]},
            {"citations": [None]},
            {"citation": "a"},
        ],
    )
    def test_citations_of_another_form_do_not_end_a_stream_of_litellm(self, fields: dict[str, Any]) -> None:
        message = {"content": TEXT, "provider_specific_fields": fields}
        add_annotations(message)
        assert "annotations" not in message


class TestToClients:
    """A source without a URL reaches clients of Gemini's protocol and of the native chat only."""

    def test_openai_has_annotations(self) -> None:
        expected = [nested(annotation) for annotation in OPENAI]
        whole = plain(completion(WHOLE, completion_id="c", created=0, model="m"))
        assert whole["choices"][0]["message"]["annotations"] == expected
        encoder = OpenAIEncoder(completion_id="c", created=0, model="m", include_usage=False)
        deltas = [plain(made)["choices"][0]["delta"] for chunk in CHUNKS for made in encoder.chunks(chunk)]
        assert [annotation for delta in deltas for annotation in delta.get("annotations", ())] == expected

    def test_responses_have_annotations_and_their_events(self) -> None:
        request = decode_request(b'{"model": "h", "input": "hi"}')
        whole = ResponseEncoder(request_id="r", created=0, request=request).whole(WHOLE)
        assert plain(whole)["output"][0]["content"][0]["annotations"] == OPENAI
        encoder = ResponseEncoder(request_id="r", created=0, request=request)
        events = [*(event for chunk in CHUNKS for event in encoder.events(chunk)), *encoder.last()]
        added = [plain(data) for name, data in events if name == "response.output_text.annotation.added"]
        assert [data["annotation"] for data in added] == OPENAI
        assert [(data["annotation_index"], data["content_index"], data["output_index"]) for data in added] == [
            (0, 0, 0),
            (1, 0, 0),
        ]

    def test_anthropic_has_them_in_the_last_text(self) -> None:
        chunks = [TextChunk(text="I look."), ToolCallChunk(index=0, id="c", name="look", arguments="{}"), *CHUNKS]
        whole = plain(message(accumulate(chunks), message_id="m", model="m"))["content"]
        assert [block.get("citations") for block in whole] == [None, None, ANTHROPIC]
        encoder = EventEncoder(message_id="m", model="m")
        lines = [event.decode() for chunk in chunks for event in encoder.events(chunk)]
        events = [json.loads(line.partition("data: ")[2]) for line in lines]
        cited = [event for event in events if event.get("delta", {}).get("type") == "citations_delta"]
        assert [(event["index"], event["delta"]["citation"]) for event in cited] == [(2, each) for each in ANTHROPIC]

    def test_gemini_has_grounding_metadata_with_places_in_bytes(self) -> None:
        encoder = GeminiEncoder(response_id="r", model="m")
        for chunk in CHUNKS:
            encoder.chunks(chunk)
        for made in (encoder.last(), gemini_response(WHOLE, response_id="r", model="m")):
            assert plain(made)["candidates"][0]["groundingMetadata"] == {
                "groundingChunks": [
                    {"web": {"uri": "https://a.example", "title": "Bears"}},
                    {"web": {"uri": "https://b.example"}},
                    {"retrievedContext": {"title": "Notes", "text": "Fin"}},
                ],
                "groundingSupports": [
                    {"segment": {"startIndex": 6, "endIndex": 11, "text": "grün"}, "groundingChunkIndices": [0]},
                    {"segment": {"startIndex": 13, "endIndex": 17, "text": "Fin."}, "groundingChunkIndices": [2]},
                ],
            }

    def test_a_source_without_text_is_left_out_where_it_needs_one(self) -> None:
        chunk = CitationChunk(citation=PAGE)
        request = decode_request(b'{"model": "h", "input": "hi"}')
        assert ResponseEncoder(request_id="r", created=0, request=request).events(chunk) == []
        assert EventEncoder(message_id="m", model="m").events(chunk) == []

    def test_echoed_text_with_citations_is_accepted(self) -> None:
        echoed = {"role": "assistant", "content": [{"type": "text", "text": TEXT, "citations": ANTHROPIC}]}
        messages = [{"role": "user", "content": "hi"}, echoed, {"role": "user", "content": "why?"}]
        body = msgspec.json.encode({"model": "h", "max_tokens": 5, "messages": messages})
        ignored = IgnoredFields("refuse")
        assert decode_message(body, ignored)[1].chat.messages[1].content
        assert not ignored.names

    @pytest.mark.slow
    def test_many_citations_of_a_long_text_cost_linear_time(self) -> None:
        text = [TextChunk(text="ä" * 40) for _ in range(5_000)]
        source = Citation(url="https://a.example", start_index=0, end_index=200_000)
        chunks: list[ChatChunk] = [*text, *[CitationChunk(citation=source) for _ in text]]
        request = decode_request(b'{"model": "h", "input": "hi"}')
        before = time.process_time()
        responses = ResponseEncoder(request_id="r", created=0, request=request)
        openai = OpenAIEncoder(completion_id="c", created=0, model="m", include_usage=False)
        anthropic = EventEncoder(message_id="m", model="m")
        gemini = GeminiEncoder(response_id="r", model="m")
        for chunk in chunks:
            responses.events(chunk)
            openai.chunks(chunk)
            anthropic.events(chunk)
            gemini.chunks(chunk)
        segments = plain(gemini.last())["candidates"][0]["groundingMetadata"]["groundingSupports"]
        assert segments[-1]["segment"] == {"startIndex": 0, "endIndex": 400_000}
        assert time.process_time() - before < 3  # linear code takes 0.3 s, quadratic code 20 s
