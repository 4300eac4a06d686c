"""The soak: a daemon on cameras that come and go, faults and clients at random, for minutes or days (docs/soak.md).

``make soak MINUTES=60 SEED=1`` runs it; nothing else calls in here, but for the unit tests. The rooms:

- ``plan``    what happens when: a pure function of seed, length and number of cameras
- ``drive``   does it to a real daemon, with ``actions``, ``clients`` and ``config``
- ``expect``  which streams must be back by when; pure, the clock is the caller's
- ``watch``   samples: memory, descriptors, threads, latency, rates
- ``judge``   from samples to verdicts: what grew, and by how much it may; pure
- ``results`` the JSON and CSV files, the table; ``plot`` the picture
"""
