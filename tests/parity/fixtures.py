"""Makes the fixtures that Rust tests compare Hearth with, or checks those committed.

    python fixtures.py --data DATA --smollm2 GGUF             compare with fixtures/
    python fixtures.py --data DATA --smollm2 GGUF --write     write fixtures/ anew

DATA is what tests/setup/data.sh prints, GGUF what tests/setup/smollm2.sh prints. Every expected value comes from
transformers, tokenizers and scikit-learn as pinned in requirements.txt. The
tests that read the fixtures are worker/tests/parity_*.rs.
"""

import argparse
import json
import math
import pathlib
import sys
import tempfile

import safetensors.torch
import sklearn.metrics
import tokenizers
import torch
import transformers

import families
import images
import learned
import optimizers
import smollm2
from templates import templates

HERE = pathlib.Path(__file__).parent / "fixtures"
# Committed figures and new ones may differ by this much: other CPUs round otherwise.
TOLERANCE = 2e-5
# So do gradients, and after many steps their norm shows it: that of the Rust tests.
NORM_TOLERANCE = 1e-3

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "Re: [ILUG] Sun Solaris -- GET $$$ NOW!!! http://example.com/?a=b&c=d",
    "Dear Mr. O'Neill, I'll re-send it to-morrow... won't I?",
    "Crème brûlée à la façon d'Ångström",
    "ＦＵＬＬＷＩＤＴＨ ﬁnance ﬂuid",
    "\u4e2d\u6587\u90ae\u4ef6 and \u65e5\u672c\u8a9e mixed with English",
    "\u0410\u0434\u0440\u0435\u0441 \u044d\u043b\u0435\u043a\u0442\u0440\u043e\u043d\u043d\u043e\u0439 \u043f\u043e\u0447\u0442\u044b",
    "emoji \U0001f600 and zero\u200bwidth and nbsp\u00a0space and soft\u00adhyphen",
    "tabs\tand\nlines\r\nand\u2028separators",
    "[CLS] a text that names [SEP] and [MASK] and [PAD] [UNK]",
    "supercalifragilisticexpialidocious antidisestablishmentarianism" + "x" * 120,
    "1,234,567.89 EUR = 100% of 2^10 @ 3.14e-2",
    "word " * 60,
]
MAX_LENGTH = 24


def tokens(minilm):
    """Token ids of MiniLM's tokenizer, cut after MAX_LENGTH."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    ids = tokenizer(TEXTS, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return {"maxLength": MAX_LENGTH, "rows": [{"text": t, "ids": i} for t, i in zip(TEXTS, ids)]}


def head(outputs, inputs):
    """A classifier's weight [outputs, inputs] and bias that the Rust test computes too."""
    index = torch.arange(outputs * inputs, dtype=torch.float64)
    weight = (torch.sin(index + 1) * 0.05).to(torch.float32).reshape(outputs, inputs)
    bias = torch.tensor([0.1 * (row + 1) for row in range(outputs)], dtype=torch.float32)
    return weight, bias


def logits(minilm):
    """Logits of MiniLM under a fixed head, for a padded batch of rows."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=3)
    model.eval()
    with torch.no_grad():
        weight, bias = head(3, model.config.hidden_size)
        model.classifier.weight.copy_(weight)
        model.classifier.bias.copy_(bias)
        rows = [row["ids"] for row in tokens(minilm)["rows"]]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        out = model(input_ids=ids, attention_mask=mask).logits
    return {"rows": rows, "logits": out.tolist()}


def embeddings(minilm):
    """MiniLM's vectors of a padded batch, as its card makes them: the mean over tokens, at length 1."""
    model = transformers.AutoModel.from_pretrained(minilm)
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["A man is eating food.", "Someone has a meal", "The girl is carrying a baby", TEXTS[3], "word " * 60]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    return {"rows": [{"text": t, "tokens": int(n), "vector": v} for t, n, v in zip(texts, mask.sum((1, 2)), vectors.tolist())]}


def metrics():
    """Accuracy and F1 by scikit-learn, for answers drawn by a fixed rule."""
    cases = []
    for classes, count in ((2, 50), (2, 7), (3, 40), (5, 60)):
        truths = [int(10 * abs(math.sin(3 * i + classes))) % classes for i in range(count)]
        answers = [t if i % 4 else (t + i) % classes for i, t in enumerate(truths)]
        cases.append((classes, truths, answers))
    cases += [
        (2, [0, 0, 0], [0, 0, 0]),  # the positive class never occurs
        (2, [1, 1, 0], [0, 0, 0]),  # and is never answered
        (4, [0, 1, 2], [0, 1, 0]),  # a class that occurs nowhere
    ]
    return {"cases": [metric_case(*case) for case in cases]}


def metric_case(classes, truths, answers):
    f1 = lambda **kind: sklearn.metrics.f1_score(truths, answers, zero_division=0, **kind)  # noqa: E731
    macro = float(f1(average="macro"))
    return {
        "classes": classes,
        "truths": truths,
        "answers": answers,
        "accuracy": float(sklearn.metrics.accuracy_score(truths, answers)),
        "f1ByClass": [float(value) for value in f1(average=None, labels=list(range(classes)))],
        "f1Macro": macro,
        "f1": float(f1(average="binary", pos_label=1)) if classes == 2 else macro,
    }


# A BERT small enough to commit, without dropout, so that its losses are a
# function of the data alone.
TINY_WORDS = "win free money prize click offer now cash meet lunch report agenda code patch list thanks".split()
TINY = transformers.BertConfig(
    vocab_size=5 + len(TINY_WORDS),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.2,
    id2label={0: "ham", 1: "spam"},
    label2id={"ham": 0, "spam": 1},
)
# One batch is the whole of the data: then the order of rows does not matter.
TINY_ROWS = 32
TINY_STEPS = 50
TINY_TRAINING = {
    "learningRate": 3e-3,
    "weightDecay": 0.1,
    "adamBeta1": 0.9,
    "adamBeta2": 0.98,
    "adamEpsilon": 1e-6,
    "maxGradNorm": 0.5,
    "warmupSteps": 0.2,
    "lrSchedulerType": "Linear",
    "numTrainEpochs": TINY_STEPS,
}


def tiny_tokenizer():
    """One token a word, between [CLS] and [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate(special + TINY_WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def tiny_rows():
    """Texts of 1 to 12 words; the label leans on the first word, with noise."""
    rows = []
    for row in range(TINY_ROWS):
        pick = [int(1000 * abs(math.sin(7 * row + 3 * word + 1))) for word in range(1 + row * 5 % 12)]
        words = [TINY_WORDS[value % len(TINY_WORDS)] for value in pick]
        spam = (pick[0] % len(TINY_WORDS) < 8) != (row % 9 == 0)
        rows.append({"text": " ".join(words), "label": "spam" if spam else "ham"})
    return rows


def write_tiny(folder):
    """The tiny model's directory, for transformers and for Hearth, and its data."""
    torch.manual_seed(20261124)
    model = transformers.BertForSequenceClassification(TINY)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    config = json.loads(TINY.to_json_string())
    config["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    rows = "".join(json.dumps(row) + "\n" for row in tiny_rows())
    (folder / "train.jsonl").write_text(rows)


def curve(tiny):
    """Loss before each step of AdamW with a linear schedule and clipping, as the Trainer does it."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny)
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny / "tokenizer.json"))
    tokenizer.enable_padding()
    data = [json.loads(line) for line in (tiny / "train.jsonl").read_text().splitlines()]
    encoded = tokenizer.encode_batch([row["text"] for row in data])
    ids = torch.tensor([row.ids for row in encoded])
    mask = torch.tensor([row.attention_mask for row in encoded])
    labels = torch.tensor([TINY.label2id[row["label"]] for row in data])

    t = TINY_TRAINING
    decays = lambda name: not name.endswith("bias") and "LayerNorm" not in name  # noqa: E731
    groups = [
        {"params": [p for n, p in model.named_parameters() if decays(n)], "weight_decay": t["weightDecay"]},
        {"params": [p for n, p in model.named_parameters() if not decays(n)], "weight_decay": 0.0},
    ]
    betas = (t["adamBeta1"], t["adamBeta2"])
    optimizer = torch.optim.AdamW(groups, lr=t["learningRate"], betas=betas, eps=t["adamEpsilon"])
    warmup = math.ceil(t["warmupSteps"] * TINY_STEPS)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, TINY_STEPS)
    model.train()
    losses, rates, norms = [], [], []
    for _ in range(TINY_STEPS):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), t["maxGradNorm"])))
        rates.append(schedule.get_last_lr()[0])
        losses.append(float(loss.detach()))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return {"training": t, "steps": TINY_STEPS, "losses": losses, "learningRates": rates, "gradNorms": norms}


def make(data, gguf, out):
    """Writes all fixtures under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_tiny(out / "tiny-bert")
    prepared, jpeg = images.pictures()
    (out / images.PICTURE_FILE).write_bytes(jpeg)
    made = {
        "pictures.json": prepared,
        "minilm-tokens.json": tokens(data / "minilm"),
        "minilm-logits.json": logits(data / "minilm"),
        "minilm-embeddings.json": embeddings(data / "minilm"),
        "metrics.json": metrics(),
        "tiny-curve.json": curve(out / "tiny-bert"),
        "families.json": families.families(),
        "optimizers.json": optimizers.fixture(),
        "images.json": images.images(),
        "preferences.json": learned.preferences(),
        "adapters.json": learned.adapters(),
        "smollm2.json": smollm2.smollm2(gguf),
        "templates.json": templates(),
    }
    for name, content in made.items():
        (out / name).write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n")


def difference(want, got, where):
    """The first place where two JSON values differ by more than they may, or None."""
    if isinstance(want, dict) and isinstance(got, dict):
        if want.keys() != got.keys():
            return f"{where}: keys {sorted(want)} and {sorted(got)}"
        pairs = ((f"{where}.{key}", want[key], got[key]) for key in want)
    elif isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            return f"{where}: {len(want)} and {len(got)} entries"
        pairs = ((f"{where}[{index}]", a, b) for index, (a, b) in enumerate(zip(want, got)))
    elif isinstance(want, float) and isinstance(got, (int, float)):
        tolerance = NORM_TOLERANCE if ".gradNorms[" in where else TOLERANCE
        near = math.isclose(want, got, rel_tol=tolerance, abs_tol=tolerance)
        return None if near else f"{where}: {want} and {got}"
    else:
        return None if want == got else f"{where}: {want!r} and {got!r}"
    return next((found for found in (difference(a, b, at) for at, a, b in pairs) if found), None)


def compare(committed, made):
    """What differs between two folders of fixtures, a line each."""
    names = sorted({str(p.relative_to(f)) for f in (committed, made) for p in f.rglob("*") if p.is_file()})
    problems = []
    for name in names:
        old, new = committed / name, made / name
        if not (old.exists() and new.exists()):
            problems.append(f"{name}: only {'committed' if old.exists() else 'made anew'}")
        elif name.endswith(".json"):
            found = difference(json.loads(old.read_text()), json.loads(new.read_text()), name)
            problems += [found] if found else []
        elif old.read_bytes() != new.read_bytes():
            problems.append(f"{name}: differs")
    return problems


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=pathlib.Path, required=True)
    arguments.add_argument("--smollm2", type=pathlib.Path, required=True)
    arguments.add_argument("--write", action="store_true")
    given = arguments.parse_args()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if given.write:
        make(given.data, given.smollm2, HERE)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / "fixtures"
        make(given.data, given.smollm2, made)
        problems = compare(HERE, made)
    for problem in problems:
        print(f"fixtures: {problem}", file=sys.stderr)
    if problems:
        sys.exit("fixtures: what the reference gives now is not what is committed (--write accepts it)")
    print("fixtures: as committed")


if __name__ == "__main__":
    main()
