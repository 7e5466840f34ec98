"""Makes a Hugging Face directory of torchvision's MobileNetV2, without torch.

    mobilenet.py WEIGHTS.pth FOLDER

The file is in torch's format before 1.6: pickles one behind the other, then the bytes of each
storage. Only what a dictionary of tensors needs is let through; anything else ends this program.
"""

import collections
import io
import json
import pathlib
import pickle
import struct
import sys

# Pixels of a side.
SIDE = 160
MAGIC = 0x1950A86A20F9469CFC6C
# Storages by their class: the type in safetensors, and bytes of an element.
KINDS = {"FloatStorage": ("F32", 4), "LongStorage": ("I64", 8)}


def rebuild(storage, offset, size, stride, *_):
    """A tensor: its storage, shape, and place in it. All of them are contiguous."""
    expected = 1
    for length, step in zip(reversed(size), reversed(stride)):
        assert length == 1 or step == expected, "a tensor that is not contiguous"
        expected *= length
    return storage, offset, tuple(size)


class Unpickler(pickle.Unpickler):
    KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch", "FloatStorage"): "FloatStorage",
        ("torch", "LongStorage"): "LongStorage",
    }

    def find_class(self, module, name):
        return self.KNOWN[module, name]

    def persistent_load(self, told):
        what, kind, key, _, count, _ = told
        assert what == "storage"
        return kind, key, count


def read(path):
    """Tensors by name: type, shape, bytes."""
    with open(path, "rb") as file:
        load = lambda: Unpickler(file).load()
        assert load() == MAGIC, "not torch's old format"
        load(), load()
        tensors, keys = load(), load()
        counts = {key: (kind, count) for (kind, key, count), _, _ in tensors.values()}
        storages = {}
        for key in keys:
            kind, count = counts[key]
            (told,) = struct.unpack("<q", file.read(8))
            assert told == count, "a storage of another length"
            storages[key] = file.read(count * KINDS[kind][1])
    out = {}
    for name, ((kind, key, _), offset, shape) in tensors.items():
        dtype, width = KINDS[kind]
        count = 1
        for length in shape:
            count *= length
        out[name] = dtype, shape, storages[key][offset * width : (offset + count) * width]
    return out


def renamed(name):
    """transformers' name of a tensor of torchvision's."""
    parts = name.split(".")
    if parts[0] == "classifier":
        return f"classifier.{parts[2]}"
    block, rest = int(parts[1]), parts[2:]
    if block in (0, 18):
        layer = "conv_stem.first_conv" if block == 0 else "conv_1x1"
        return f"mobilenet_v2.{layer}.{['convolution', 'normalization'][int(rest[0])]}.{rest[1]}"
    # Convolutions of a block with their norms, but for the last, which are one by one.
    layers = ["conv_3x3", "reduce_1x1"] if block == 1 else ["expand_1x1", "conv_3x3", "reduce_1x1"]
    number = int(rest[1])
    place = min(number, len(layers) - 1)
    if number < len(layers) - 1:
        kind, field = ["convolution", "normalization"][int(rest[2])], rest[3]
    else:
        kind, field = ("convolution" if number == len(layers) - 1 else "normalization"), rest[2]
    above = "conv_stem" if block == 1 else f"layer.{block - 2}"
    return f"mobilenet_v2.{above}.{layers[place]}.{kind}.{field}"


def write(path, tensors):
    """As safetensors."""
    header, data, at = {"__metadata__": {"format": "pt"}}, io.BytesIO(), 0
    for name, (dtype, shape, bytes_) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(bytes_)]}
        data.write(bytes_)
        at += len(bytes_)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data.getvalue())


def main():
    weights, out = sys.argv[1], pathlib.Path(sys.argv[2])
    out.mkdir()
    write(out / "model.safetensors", {renamed(name): tensor for name, tensor in read(weights).items()})
    labels = {str(number): f"LABEL_{number}" for number in range(1000)}
    config = {
        "architectures": ["MobileNetV2ForImageClassification"],
        "model_type": "mobilenet_v2",
        # torchvision pads both sides alike, and its norms have PyTorch's epsilon.
        "tf_padding": False,
        "layer_norm_eps": 1e-5,
        "classifier_dropout_prob": 0.2,
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
    }
    # Whole pictures, where ImageNet's are cut to their middles, and 160 pixels, half the work of 224.
    preprocessor = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    for name, value in [("config.json", config), ("preprocessor_config.json", preprocessor)]:
        (out / name).write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
