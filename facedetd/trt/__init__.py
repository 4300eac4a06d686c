"""TensorRT: what differs between its versions, plans and what they are for, building them. Called by the engine
`tensorrt` of the inference process, and by `facedetctl model build`. Nothing here is loaded without being asked for;
without TensorRT or a GPU there is one error that says what to install.
"""

PLANS = "plans"
"""The folder of plans below the state directory: the daemon looks in it, `facedetctl model build` writes to it."""
