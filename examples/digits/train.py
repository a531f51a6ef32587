"""Makes everything in this folder again: model, quantization-aware model, data and the shipped .tflite.

    pip install scikit-learn==1.9.1 tensorflow==2.21.0 tf-keras==2.21.0 tensorflow-model-optimization==0.8.1
    python examples/digits/train.py

Seeded throughout, so a second run on the same machine gives the same weights. Takes about two minutes.
The data are scikit-learn's digits: 1,797 scans of handwritten digits, 8 by 8 pixels with values from 0 to 16
(E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, CC BY 4.0).
"""

# ruff: noqa: E402 (TensorFlow reads the environment when it is imported)
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 7
TRAINING_IMAGES = 900
CALIBRATION_IMAGES = 200
EPOCHS = 60

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # results differ from one accelerator to another
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # and between instruction sets

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def split_digits():
    """Training and evaluation images, disjoint: uint8 (n, 8, 8, 1) from 0 to 16, with int64 labels (n,)."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int64)
    return train_test_split(images, labels, train_size=TRAINING_IMAGES, random_state=SEED, stratify=labels)


def prepared(images):
    """What the model expects: float32 from 0 to 1, the manifest's cast and scale."""
    return images.astype(np.float32) * np.float32(0.0625)


def build():
    """A small network in the style of MobileNet: convolution, depthwise-separable blocks, pooling, softmax."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_norm")(x)
    x = layers.ReLU(name="depthwise_relu")(x)
    x = layers.Conv2D(32, 1, use_bias=False, name="pointwise")(x)
    x = layers.BatchNormalization(name="pointwise_norm")(x)
    x = layers.ReLU(name="pointwise_relu")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(48, 3, padding="same", activation="relu", name="head")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="probabilities")(x), name="digits")


def train(model, images, labels):
    """Trains with a falling learning rate; every example is seen in each epoch."""
    steps = EPOCHS * -(-len(images) // 32)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(prepared(images), labels, batch_size=32, epochs=EPOCHS, verbose=0)


def save_reproducibly(model, path):
    """Saves without the optimizer, and without the dates that would change the file at every run."""
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / path.name
        plain.save(first)
        with zipfile.ZipFile(first) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    content = json.dumps(json.loads(content) | {"date_saved": "2026-01-01@00:00:00"}).encode()
                target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def train_quantization_aware(model, images, labels):
    """Fine-tunes the same weights with simulated quantization, in a process of its own.

    The toolkit needs Keras 2, which TensorFlow must be told of before it is imported.
    """
    with tempfile.TemporaryDirectory() as scratch:
        handover = Path(scratch) / "handover.npz"
        weights = {f"weight_{index}": weight for index, weight in enumerate(model.get_weights())}
        np.savez(handover, images=prepared(images), labels=labels, **weights)
        command = [sys.executable, str(HERE / "train_qat.py"), str(handover), str(HERE / "models" / "digits_qat")]
        subprocess.run(command, check=True, env={**os.environ, "TF_USE_LEGACY_KERAS": "1"})


def convert_shipped(model, calibration):
    """The .tflite that the application carries: int8 inside, float at the edges."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in prepared(calibration))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def main():
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    for folder in ("models", "data", "app"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    train_images, test_images, train_labels, test_labels = split_digits()
    calibration = train_images[:CALIBRATION_IMAGES]
    np.savez_compressed(HERE / "data" / "evaluation.npz", image=test_images, label=test_labels)
    np.savez_compressed(HERE / "data" / "calibration.npz", image=calibration)
    model = build()
    train(model, train_images, train_labels)
    _, accuracy = model.evaluate(prepared(test_images), test_labels, verbose=0)
    print(f"accuracy on {len(test_images)} images that were not trained on: {accuracy:.4f}")
    save_reproducibly(model, HERE / "models" / "digits.keras")
    train_quantization_aware(model, train_images, train_labels)
    (HERE / "app" / "digits_int8.tflite").write_bytes(convert_shipped(model, calibration))


if __name__ == "__main__":
    main()
