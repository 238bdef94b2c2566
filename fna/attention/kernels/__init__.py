"""Fused versions: `gpu` in Triton, `cpu` in C++, both compiled on first use. The plain versions serve everywhere else."""
