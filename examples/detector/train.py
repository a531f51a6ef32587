"""Trains the example's detector and draws its scenes: python examples/detector/train.py

Circles, squares and triangles among lines, 160 by 160 pixels. Each of the 10 by 10 cells says whether a shape has its
centre there. The head has the layout of a YOLO v8 export: for each box centre and size, here in pixels, then the scores
of the classes, in one output. In int8 that output has one scale for both, so that 160 pixels leave two steps or three
to scores up to 1.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE, CELL, CLASSES = 160, 16, ("circle", "square", "triangle")
CELLS = SIDE // CELL


def scene(rng):
    """An image (160, 160, 3) uint8 and its boxes [xmin, ymin, xmax, ymax, class] in pixels."""
    ground = rng.integers(0, 256, 3)
    image = Image.new("RGB", (SIDE, SIDE), tuple(map(int, ground)))
    draw, boxes, taken = ImageDraw.Draw(image), [], np.zeros((SIDE, SIDE), bool)
    for _ in range(rng.integers(2, 7)):
        draw.line(tuple(map(int, rng.integers(0, SIDE, 4))), _near(ground, rng), int(rng.integers(1, 5)))
    for _ in range(rng.integers(1, 6)):
        width, height = rng.integers(20, 71, 2)
        left, top = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
        if taken[top : top + height, left : left + width].any():
            continue
        taken[top : top + height, left : left + width] = True
        label, right, bottom = int(rng.integers(len(CLASSES))), left + width - 1, top + height - 1
        colour = _near(ground, rng)
        if label == 0:
            draw.ellipse((left, top, right, bottom), fill=colour)
        elif label == 1:
            draw.rectangle((left, top, right, bottom), fill=colour)
        else:
            draw.polygon([(left + width // 2, top), (left, bottom), (right, bottom)], fill=colour)
        boxes.append((int(left), int(top), int(left + width), int(top + height), label))
    return np.asarray(image), boxes


def _near(ground, rng):
    """Another colour, some hard to tell from the ground."""
    apart = rng.integers(8, 120) * rng.choice([-1, 1], 3)
    return tuple(int(c) for c in np.clip(ground + apart, 0, 255))


def targets(boxes):
    """What the head should say of a scene, (100, 7): centre and size in pixels, and 1 for the class."""
    wanted = np.zeros((CELLS, CELLS, 4 + len(CLASSES)), np.float32)
    for xmin, ymin, xmax, ymax, label in boxes:
        x, y = (xmin + xmax) / 2, (ymin + ymax) / 2
        cell = wanted[int(y) // CELL, int(x) // CELL]
        cell[:4] = x, y, xmax - xmin, ymax - ymin
        cell[4:] = np.eye(len(CLASSES))[label]
    return wanted.reshape(CELLS * CELLS, -1)


def network(keras):
    """A small convolutional network; each cell gives a centre, counted from its own, a size and scores."""
    layers = keras.layers
    image = x = keras.Input((SIDE, SIDE, 3), name="image")
    for width, stride in ((12, 2), (16, 2), (32, 2), (48, 2), (48, 1), (64, 1)):
        x = layers.Conv2D(width, 3, stride, "same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    middles = (np.arange(CELLS, dtype=np.float32) + 0.5) * CELL
    x_of, y_of = np.meshgrid(middles, middles)
    places = np.stack([x_of, y_of, 0 * x_of, 0 * y_of], -1)[np.newaxis]
    boxes = layers.Conv2D(4, 1, name="boxes")(x) * CELL + places
    scores = layers.Conv2D(len(CLASSES), 1, activation="sigmoid", name="scores")(x)
    boxes = layers.Reshape((CELLS * CELLS, 4))(boxes)
    scores = layers.Reshape((CELLS * CELLS, len(CLASSES)))(scores)
    head = layers.Concatenate(name="detections")([boxes, scores])
    return keras.Model(image, head)


def train(folder, scenes=6000, epochs=20, seed=7):
    """Writes model.keras into a folder."""
    import keras

    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    drawn = [scene(rng) for _ in range(scenes)]
    images = np.stack([image for image, _ in drawn]).astype(np.float32) / 255
    wanted = np.stack([targets(boxes) for _, boxes in drawn])

    def loss(truth, head):
        ops = keras.ops
        there = ops.max(truth[..., 4:], axis=-1, keepdims=True)
        scores = ops.clip(head[..., 4:], 1e-6, 1 - 1e-6)
        crossed = -(truth[..., 4:] * ops.log(scores) + (1 - truth[..., 4:]) * ops.log(1 - scores))
        apart = ops.abs(truth[..., :4] - head[..., :4]) / CELL
        return ops.mean(ops.sum(crossed, (1, 2)) + 2 * ops.sum(there * apart, (1, 2)))

    model = network(keras)
    steps = epochs * scenes // 64
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)), loss)
    model.fit(images, wanted, batch_size=64, epochs=epochs, verbose=2)
    keras.Model(model.input, model.output).save(Path(folder) / "model.keras")


def write_scenes(folder, count, seed):
    """Writes images and their annotations in COCO's format."""
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(count):
        image, boxes = scene(rng)
        name = f"{number:03}.png"
        Image.fromarray(image).quantize(16).save(folder / "images" / name, optimize=True)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for xmin, ymin, xmax, ymax, label in boxes:
            size = [xmax - xmin, ymax - ymin]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [xmin, ymin, *size],
                    "area": size[0] * size[1],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(CLASSES)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / "annotations.json").write_text(text + "\n")


if __name__ == "__main__":
    here = Path(__file__).parent
    write_scenes(here / "data/evaluation", 150, seed=1)
    write_scenes(here / "data/calibration", 50, seed=2)
    train(here)
