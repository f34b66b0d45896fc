"""Admin API, event stream and dashboard."""
