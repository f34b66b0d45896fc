"""A chat handler on the Anthropic SDK."""
