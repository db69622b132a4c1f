"""Triton and nothing else: one kernel and its launcher a file."""
