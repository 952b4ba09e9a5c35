"""Benches: commands that measure and print, never tests. Those without a place in ``fdi bench`` run as modules."""
