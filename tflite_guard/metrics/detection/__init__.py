"""Detectors: a model's outputs to boxes, boxes to hits and misses, those to average precision."""

from tflite_guard.metrics.detection.heads import detections, outputs_of
from tflite_guard.metrics.detection.matching import against_labels, against_reference
from tflite_guard.metrics.detection.precision import mean_average_precision

__all__ = ["against_labels", "against_reference", "detections", "mean_average_precision", "outputs_of"]
