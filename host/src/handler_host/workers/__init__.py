"""Worker processes: launch specification, launchers, fork server, one worker's life, and the runtime inside it."""
