"""Protocols of existing clients, one package each."""
