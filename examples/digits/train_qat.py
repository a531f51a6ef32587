"""Fine-tunes the digits network with simulated quantization. Called by train.py, with TF_USE_LEGACY_KERAS=1.

Arguments: an .npz with images, labels and the trained weights, and the SavedModel folder to write.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

SEED = 7
EPOCHS = 8


def build():
    """The network of train.py, layer for layer, in Keras 2."""
    layers = tf_keras.layers
    inputs = tf_keras.Input((8, 8, 1), name="image")
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
    return tf_keras.Model(inputs, layers.Dense(10, activation="softmax", name="probabilities")(x), name="digits")


def export(model, path):
    """A SavedModel of the forward pass alone, its input and output named as Keras 3 names them."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")])
    def serve(image):
        return {"output_0": model(image, training=False)}

    module.serve = serve
    module.variables_of_model = model.variables
    tf.saved_model.save(module, path, signatures={"serving_default": serve})


def main(handover, path):
    tf_keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    with np.load(handover, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
        weights = [arrays[f"weight_{index}"] for index in range(len(arrays.files) - 2)]
    model = build()
    model.set_weights(weights)
    aware = tfmot.quantization.keras.quantize_model(model)
    aware.compile(tf_keras.optimizers.Adam(2e-4), loss="sparse_categorical_crossentropy")
    aware.fit(images, labels, batch_size=32, epochs=EPOCHS, verbose=0)
    export(aware, path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
