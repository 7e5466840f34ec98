"""Tiny models of pictures, and prepared pictures: what transformers computes.

As in families.py, no weights are committed: the Rust test (worker/tests/it/parity_images.rs) fills
the same tensors. Of each model: the configuration, names and shapes, the logits with running
statistics, and of one step of training (batch statistics, no dropout) the loss, each gradient's
norm and its product with a fixed vector, and the statistics that are left.

Of each picture and `preprocessor_config.json`: a sample of what transformers' image processor
with its Pillow back end makes of it.

    python images.py            prints the models' figures
    python images.py FOLDER     prints what becomes of the photographs in a folder
"""

import io
import json
import math
import pathlib
import sys
import tempfile

import numpy
import PIL.Image
import safetensors.torch
import torch
import transformers
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from families import probe

transformers.utils.logging.disable_progress_bar()

BATCH, CLASSES = 4, 3
# Share of the newest batch in running statistics: PyTorch's default, and torchvision's.
MOMENTUM = 0.1
# Indices of the noise that is no tensor's.
PIXELS, PICTURE = 5000, 6000
PICTURE_FILE = "picture.jpg"


def noise(index, count):
    """Numbers within -0.5 to 0.5."""
    steps = torch.arange(count, dtype=torch.float64)
    wave = torch.sin((steps + 1) * 12.9898 + index * 78.233) * 43758.5453
    return (wave - torch.floor(wave)) - 0.5


def values(index, shape, name):
    """Values of the tensor at `index`; those of kernels and matrices keep a layer's scale."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    flat = noise(index, math.prod(shape))
    if len(shape) in (2, 4):
        flat = flat * math.sqrt(24 / math.prod(shape[1:]))
    elif len(shape) == 1 and name.endswith((".weight", ".running_var")):
        flat = 1 + 0.2 * flat
    else:
        flat = 0.25 * flat
    return flat.to(torch.float32).reshape(shape)


def pixels(height, width):
    """A batch `[BATCH, 3, height, width]`."""
    shape = (BATCH, 3, height, width)
    return (2 * noise(PIXELS, math.prod(shape))).to(torch.float32).reshape(shape)


LABELS = torch.tensor([2, 0, 1, 2])


def models():
    """Of each case: model, height and width."""
    t = transformers
    classifier = t.AutoModelForImageClassification.from_config
    vit = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, patch_size=4,
        num_labels=CLASSES,
    )
    resnet = dict(embedding_size=8, num_labels=CLASSES)
    mobile = dict(classifier_dropout_prob=0.0, num_labels=CLASSES)
    return {
        "vit": (lambda: classifier(t.ViTConfig(**vit, image_size=16)), 16, 16),
        "vit-oblong": (
            lambda: classifier(
                t.ViTConfig(**vit, image_size=[12, 20], qkv_bias=False, hidden_act="gelu_pytorch_tanh")
            ),
            12, 20,
        ),
        "resnet-basic": (
            lambda: classifier(
                t.ResNetConfig(
                    **resnet, hidden_sizes=[8, 16], depths=[2, 1], layer_type="basic",
                    downsample_in_first_stage=True,
                )
            ),
            33, 28,
        ),
        "resnet-bottleneck": (
            lambda: classifier(t.ResNetConfig(**resnet, hidden_sizes=[16, 32], depths=[1, 2])), 32, 32,
        ),
        "resnet-early": (
            lambda: classifier(
                t.ResNetConfig(
                    **resnet, hidden_sizes=[16, 16], depths=[1, 1], hidden_act="silu",
                    downsample_in_bottleneck=True,
                )
            ),
            32, 32,
        ),
        # Pictures whose edges need an odd number of zeros, and kernels with holes.
        "mobilenet-v2": (
            lambda: classifier(
                t.MobileNetV2Config(**mobile, depth_multiplier=0.2, output_stride=8, finegrained_output=False)
            ),
            37, 40,
        ),
        "mobilenet-v2-plain": (
            lambda: classifier(
                t.MobileNetV2Config(
                    **mobile, depth_multiplier=0.1, tf_padding=False, first_layer_is_expansion=False,
                    finegrained_output=False, expand_ratio=3.0,
                )
            ),
            96, 96,
        ),
    }


def on_disk(model):
    """Names and shapes as a directory has them, and values for them."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = safetensors.torch.load_file(pathlib.Path(folder) / "model.safetensors")
        shapes = {name: list(tensors[name].shape) for name in sorted(tensors)}
        filled = {name: values(index, shape, name) for index, (name, shape) in enumerate(shapes.items())}
        safetensors.torch.save_file(filled, pathlib.Path(folder) / "model.safetensors", metadata={"format": "pt"})
        # Read back by transformers, which maps the directory's names to its own.
        read, told = type(model).from_pretrained(folder, output_loading_info=True)
        assert not told["missing_keys"] and not told["unexpected_keys"], told
    return shapes, read


def summary(tensor):
    """Norm, and product with `probe`."""
    flat = tensor.detach().flatten().double()
    return [float(flat.norm()), float(flat @ probe(flat.numel()))]


def by_disk_names(model, tensors):
    """`tensors`, named as in the model, under the directory's names."""
    copy = type(model)(model.config)
    state = {name: torch.zeros_like(value) for name, value in copy.state_dict().items()}
    state.update(tensors)
    copy.load_state_dict(state)
    with tempfile.TemporaryDirectory() as folder:
        copy.save_pretrained(folder)
        return safetensors.torch.load_file(pathlib.Path(folder) / "model.safetensors")


def case(make, height, width):
    made = make()
    shapes, model = on_disk(made)
    config = json.loads(model.config.to_json_string())
    config["architectures"] = [type(model).__name__]
    inputs = pixels(height, width)
    with torch.no_grad():
        logits = model.eval()(pixel_values=inputs).logits
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # That of MobileNetV2 is TensorFlow's decay in transformers, which PyTorch takes for the opposite.
            module.momentum = MOMENTUM
    loss = model.train()(pixel_values=inputs, labels=LABELS).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    statistics = dict(model.named_buffers())
    after = by_disk_names(model, gradients | statistics)
    running = (".running_mean", ".running_var", ".num_batches_tracked")
    return {
        "config": config, "tensors": shapes, "height": height, "width": width,
        "logits": [[round(value, 7) for value in row] for row in logits.tolist()],
        "loss": float(loss.detach()),
        "gradients": {n: summary(t) for n, t in sorted(after.items()) if not n.endswith(running)},
        "statistics": {n: summary(t) for n, t in sorted(after.items()) if n.endswith(running)},
    }


def images():
    """All models."""
    return {name: case(*of) for name, of in models().items()}


def picture(height, width):
    """A picture with slopes, edges and noise, `[height, width, 3]` of bytes."""
    index = torch.arange(height * width * 3)
    row, column, channel = index // (width * 3), index // 3 % width, index % 3
    slope = (row * 3 + column * 2 + channel * 40) % 256
    edge = ((row // 9 + column // 7) % 2) * 120
    grain = torch.floor((noise(PICTURE, height * width * 3) + 0.5) * 30).long()
    return ((slope // 2 + edge + grain) % 256).to(torch.uint8).reshape(height, width, 3).numpy()


def smooth(height, width):
    """A picture without edges and noise, of which a JPEG keeps most."""
    y, x = numpy.mgrid[0:height, 0:width].astype(float)
    waves = [128 + 100 * numpy.sin(x / (9 + 4 * c) + c) * numpy.cos(y / (11 + 3 * c)) for c in range(3)]
    return numpy.stack(waves, axis=-1).round().astype(numpy.uint8)


IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
# Name, processor, its settings, and the picture's height and width.
PREPARED = [
    ("vit-bilinear", ViTImageProcessorPil, dict(size={"height": 32, "width": 24}), (61, 47)),
    ("vit-larger", ViTImageProcessorPil, dict(size=40, resample=2), (17, 23)),
    ("vit-lanczos", ViTImageProcessorPil, dict(size=20, resample=1, **IMAGENET), (90, 33)),
    ("vit-nearest", ViTImageProcessorPil, dict(size=20, resample=0), (47, 61)),
    ("vit-box", ViTImageProcessorPil, dict(size=19, resample=4, do_normalize=False), (47, 61)),
    ("vit-hamming", ViTImageProcessorPil, dict(size=19, resample=5, do_rescale=False), (47, 61)),
    ("vit-one-way", ViTImageProcessorPil, dict(size={"height": 47, "width": 20}, resample=3), (47, 61)),
    ("convnext", ConvNextImageProcessorPil, dict(size={"shortest_edge": 28}, resample=3, crop_pct=0.8, **IMAGENET), (50, 71)),
    ("convnext-large", ConvNextImageProcessorPil, dict(size={"shortest_edge": 384}), (100, 90)),
    ("mobilenet", MobileNetV2ImageProcessorPil, dict(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 33}), (120, 85)),
    ("mobilenet-small", MobileNetV2ImageProcessorPil, dict(size={"shortest_edge": 15}, crop_size={"height": 18, "width": 32}), (40, 61)),
]


def sample(prepared):
    """Every so many values of `[3, H, W]`, and their mean."""
    flat = prepared.reshape(-1)
    return {
        "shape": list(prepared.shape), "step": max(1, flat.size // 60), "mean": float(flat.astype(float).mean()),
        "values": [round(float(value), 6) for value in flat[:: max(1, flat.size // 60)]],
    }


def prepared(processor, image):
    return numpy.asarray(processor(images=image)["pixel_values"][0], dtype=numpy.float32)


def jpeg():
    """A JPEG with the usual halved colours."""
    out = io.BytesIO()
    PIL.Image.fromarray(smooth(64, 96)).save(out, format="JPEG", quality=90)
    return out.getvalue()


def pictures():
    """All pictures that are made by rule, and the bytes of one as a JPEG."""
    cases = []
    for name, kind, settings, (height, width) in PREPARED:
        processor = kind(**settings)
        made = prepared(processor, PIL.Image.fromarray(picture(height, width)))
        config = json.loads(processor.to_json_string())
        cases.append({"name": name, "config": config, "height": height, "width": width, **sample(made)})
    file = jpeg()
    decoded = numpy.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB"))
    return {"cases": cases, "jpeg": sample(decoded)}, file


def real(folder):
    """What ImageNet's usual preparation makes of the photographs in a folder, by file name."""
    processor = MobileNetV2ImageProcessorPil(**IMAGENET)
    config = json.loads(processor.to_json_string())
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.jpg")):
        found[path.name] = sample(prepared(processor, PIL.Image.open(path).convert("RGB")))
    assert found, f"{folder} holds no JPEG"
    return {"config": config, "pictures": found}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(real(sys.argv[1]) if len(sys.argv) > 1 else images(), indent=1))
