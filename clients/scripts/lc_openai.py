"""LangChain on openai."""

from harness import HANDLER, KEY, URL
from langchain_checks import check
from langchain_openai import ChatOpenAI

options = {"model": HANDLER, "base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
check(ChatOpenAI(**options), ChatOpenAI(**options, reasoning={"effort": "low", "summary": "auto"}))
