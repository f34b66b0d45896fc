"""Middleware: what stands before an endpoint."""
