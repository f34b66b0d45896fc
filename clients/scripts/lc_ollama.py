"""LangChain on ollama."""

from harness import HANDLER, URL
from langchain_checks import check
from langchain_ollama import ChatOllama

check(
    ChatOllama(model=HANDLER, base_url=URL),
    ChatOllama(model=HANDLER, base_url=URL, reasoning=True),
    has_documents=False,
)
