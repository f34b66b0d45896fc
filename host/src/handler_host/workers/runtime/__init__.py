"""The worker process: one handler, loaded and run. Nothing here is imported by the host's own process."""
