"""Launchers of workers: fork, exec, inline."""
