"""A chat handler on the LiteLLM SDK."""
