"""Faults that are really done to a real daemon: of cameras, processes and resources. Slow ones are marked ``slow``."""
