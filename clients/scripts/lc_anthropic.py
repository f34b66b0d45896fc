"""LangChain on anthropic."""

from harness import HANDLER, KEY, URL
from langchain_anthropic import ChatAnthropic
from langchain_checks import check

options = {"model": HANDLER, "base_url": URL, "api_key": KEY, "max_retries": 0, "max_tokens": 4000}
check(ChatAnthropic(**options), ChatAnthropic(**options, thinking={"type": "enabled", "budget_tokens": 2000}))
