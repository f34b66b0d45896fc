"""State of several hosts in Redis or Valkey: counts of limits, token usage and learned memory."""
