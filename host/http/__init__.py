"""The host's own routes, and what all routes share."""
