"""LangChain on google-genai."""

from harness import HANDLER, KEY, URL
from langchain_checks import check
from langchain_google_genai import ChatGoogleGenerativeAI

options = {"model": HANDLER, "base_url": URL, "google_api_key": KEY, "max_retries": 1}
check(
    ChatGoogleGenerativeAI(**options),
    ChatGoogleGenerativeAI(**options, include_thoughts=True, thinking_budget=2000),
)
