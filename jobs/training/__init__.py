"""Around :mod:`fdi_lib.training`: what trains on Ray or in one process, from which data, and where it goes."""
