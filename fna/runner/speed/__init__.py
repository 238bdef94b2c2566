"""The benchmark: operations and whole models in turns, each beside what the machine could do at best. See docs/speed.md.

It is a command of its own (``make bench``, ``scripts/bench.py``) and no task of run.py: a task scores samples of a data set with
one model, the benchmark sweeps shapes, needs neither weights nor data, and has no per-sample scores.
"""
