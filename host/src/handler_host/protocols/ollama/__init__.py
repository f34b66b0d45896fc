"""Ollama's API: chats, generated text, and the models that are there and in memory."""
