"""What several hosts share: counts of limits, token usage and learned memory, in Redis or Valkey."""
