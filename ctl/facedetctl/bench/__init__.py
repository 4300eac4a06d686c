"""`facedetctl bench`: cameras, a daemon of its own, the figures, and what people write today beside it.

``measure`` is also what the demo uses. Nothing else may import from here; the test cameras are found at run time.
"""
