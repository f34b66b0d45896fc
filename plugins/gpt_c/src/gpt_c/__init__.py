"""A chat handler on the google-generativeai SDK."""
