"""The desired state: which streams there should be, from the TOML and from the API, and how the latter is kept.

The supervisor owns it; ``facedetd.api`` reaches it only through the supervisor.
Imports ``config``, ``types`` and ``control``.

- ``registry``: ``Registry``, immutable: ``add``, ``update``, ``remove``, ``import_all`` and ``with_config`` return the
  next state or raise an error of ``facedetd.control``. The way to change something, under one asyncio lock::

      next_registry = registry.add(spec, secret)                    # raises: nothing changed
      await asyncio.to_thread(store.save, next_registry.stored())   # raises StorageError: nothing changed
      registry = next_registry                                      # only now acknowledge

- ``store``: ``StateStore(state_dir)`` with ``load() -> Loaded`` and ``save(streams)``: ``streams.json``, replaced
  atomically, with a checksum and the copy before it.
- ``codec``: the bytes of the state file.
- ``lock``: ``lock_state_dir(path) -> StateLock``, one daemon for a state directory.
"""
