"""HTTP toolkit: request context, error rendering, SSE, body limits, client address, middleware."""
