"""Authentication: consumers and their limits, admin tokens and sessions, audit log."""
