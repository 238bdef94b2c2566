"""Tables, plots and pages from result.json files."""
