"""The maths on q, k, v: the contract, one file a method, landmarks and inverses. Imports torch and nothing else."""
