"""Frames between the host and one worker, and the calls that they carry."""
