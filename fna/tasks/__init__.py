"""A task turns (model, data) into per-sample counts and named numbers."""
