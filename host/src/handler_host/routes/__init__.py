"""Routes of this project's own shape: native, health, OpenAPI, metrics."""
