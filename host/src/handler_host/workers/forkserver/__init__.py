"""Fork server: the small single-threaded process that workers are forked from, and its client."""
