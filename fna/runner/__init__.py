"""Plans rows, computes the missing ones, compares, shows."""
