"""Fuzzing: hostile bytes for everything that reads what others wrote. `python -m tests.robustness.fuzz --help`.

One target to a file; targets.py is the list of them, bounds.py what holds for all, choices.py how bytes become
decisions, inputs.py where random inputs come from. corpus/ keeps inputs that each reach code no other does.
"""
