"""Decoder groups: open a camera, demux, decode, sample by PTS, scale into a ring slot.

Called by the supervisor only, which starts the process. Imports the ring, never inference.
"""
