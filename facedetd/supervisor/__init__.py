"""The supervisor process: desired state to running workers, results to watchers, and what keeps both alive.

Started by ``facedetd.main``; the API reaches it through ``facedetd.control.ControlPlane`` only. Decodes nothing,
never blocks.
"""
