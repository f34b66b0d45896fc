"""Channel to a worker: frames, one connection, one call, flow control."""
