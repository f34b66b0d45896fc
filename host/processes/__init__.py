"""How worker processes come into being and end: fork server, exec, inline."""
