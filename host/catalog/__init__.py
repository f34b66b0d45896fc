"""What handlers there are, from metadata alone: no plugin is imported here."""
