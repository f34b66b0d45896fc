"""Launchers: fork, exec, inline."""
