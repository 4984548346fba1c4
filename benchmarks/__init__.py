"""Measurements that take longer than tests: each a command that prints its figures."""
