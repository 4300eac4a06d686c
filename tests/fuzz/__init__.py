"""Hostile bytes for every place where the daemon reads some: ``python -m tests.fuzz --seconds 60`` or ``make fuzz``.

Each target runs in a process of its own with limits (memory, time for an input), so that a crash in a library is
seen as one. Input I of a target is made from the seed, the target's name and I alone: the same seed gives the same
inputs in the same order, and only how many there are depends on the machine. Findings are kept as files.

- ``mutate``   the engine: bit flips, splices, truncation, lies about lengths, words of the format
- ``target``   what a target is
- ``targets``  all of them, by name; ``files``, ``workers``, ``api``, ``web``, ``models``, ``cameras`` hold them
- ``child``    the process that feeds one target; ``__main__`` starts and watches these
"""
