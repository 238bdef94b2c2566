"""Generated scenes as a data set."""

SEEDS = {"test": range(0, 1_000_000), "val": range(1_000_000, 2_000_000), "train": range(10_000_000, 2**40)}
