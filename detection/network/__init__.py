"""The detector's network, for training. The run time knows only its ONNX file."""

from facekd.detection.network.retinaface import ExportedRetinaFace, NetworkSettings, Predictions, RetinaFace

__all__ = ["ExportedRetinaFace", "NetworkSettings", "Predictions", "RetinaFace"]
