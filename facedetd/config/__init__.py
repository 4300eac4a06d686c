"""The configuration: what the operator may write, checked whole, as frozen data.

Anyone may import this room; it imports nothing of the daemon but ``facedetd.types`` and ``facedetd.control``.

- ``model``: ``Config`` and its sections; the only place that holds defaults.
- ``schema``: one line of description and the allowed values of every key; the rules between keys.
- ``load``: ``load(path, conf_d=None) -> Config``; raises ``ConfigErrors`` with every error at once.
- ``issues``: ``ConfigIssue`` (file, line, key, message) and ``ConfigErrors``.
- ``reference``: ``render_toml() -> str``, the commented example file.
- ``streamcheck``: ``check_spec(spec, allow_file_sources=...)`` and ``lift_userinfo(spec)``, for TOML, API
  and import alike.
- ``urls``: ``redact_url``, ``split_userinfo``, ``url_with_credentials``, ``split_host_port``.
- ``importfile``: ``read_import(path)``, the stream lists of ``facedetctl import`` (TOML, JSON, CSV).
- ``credentials``: ``read_credential(name)``, a password that systemd loaded for a stream of the TOML.
- ``convert``, ``streamtable``, ``files``, ``lines``: the parts that the above are made of.
"""
