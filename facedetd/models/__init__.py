"""Models on disk: the store, `pull` of known models, `import` of a user's. Called by facedetctl, by the supervisor (to
find the model it runs) and by benchmarks. Never touches a running engine.

Light to import: onnx and onnxruntime are only loaded when a model is pulled or imported.
"""

from facedetd.inference.types import ModelError
from facedetd.models.importer import import_model
from facedetd.models.known import KNOWN
from facedetd.models.puller import pull
from facedetd.models.store import ModelEntry, ModelStore

__all__ = ["KNOWN", "ModelEntry", "ModelError", "ModelStore", "import_model", "pull"]
