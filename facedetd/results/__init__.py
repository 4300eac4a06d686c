"""Results on their way out: the record between processes, regions of interest, the hub of watchers, latency and rates.

The supervisor owns the hub and the windows; the inference process packs records. Imports types and control only.
"""
