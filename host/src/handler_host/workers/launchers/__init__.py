"""Launchers of workers: fork, exec, inline, and remote for engines on other machines."""
