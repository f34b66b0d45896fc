"""Fork server: its process, the host's end of it, and the messages between them."""
