"""The four kinds of example and their readers."""
