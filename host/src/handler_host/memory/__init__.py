"""Memory: measured, learned, reserved, released."""
