"""Catalog: handlers, found from metadata alone."""
