"""The inference process: receiver, batcher, engines, heads. Called by the supervisor only, which starts the process.

Imports the ring, never capture.
"""
