"""facedetctl: the operator's tool. One module a noun; data on stdout, messages on stderr."""
