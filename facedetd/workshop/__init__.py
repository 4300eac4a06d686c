"""Offline tools for models: export, and measuring accuracy. Called by facedetctl only, never by the daemon.

Light to import: PyTorch, onnx, matplotlib and scipy are only loaded by the functions that need them.
"""
