"""The shared-memory ring between a decoder group and an inference process, and the messages that move its slots.

Both ends import this room; it imports neither. The supervisor makes the segments and reads their counters.
"""
