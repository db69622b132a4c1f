"""Measuring: time, memory, and records that say which machine made them."""
