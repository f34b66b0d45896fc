"""OpenAI's Responses API, for what maps onto a chat."""
