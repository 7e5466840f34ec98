"""The reference: transformers' Trainer with the settings of a TrainingJob."""

import json
import os
import re

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sklearn.metrics
import torch
import transformers

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

LABELS = ["ham", "spam"]
# Settings of a TrainingJob that TrainingArguments does not have or names otherwise.
OWN = {"maxLength", "evalStrategy", "saveStrategy", "lrSchedulerType", "optim", "perDeviceTrainBatchSize"}


def clean(text, steps):
    """The cleaning steps of crds/src/training_job.rs (`CleanStep`)."""
    for step in steps:
        if step == "StripControl":
            text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)
        elif step == "StripSpecial":
            text = re.sub(r"[^\w\s]", "", text)
        elif step == "CollapseWhitespace":
            text = " ".join(text.split())
        else:
            raise ValueError(f"cleaning step {step}")
    return text


def read_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def snake(name):
    return re.sub("([A-Z])", lambda match: "_" + match[1].lower(), name)


class Rows(torch.utils.data.Dataset):
    """Tokenized rows, as the Trainer takes them."""

    def __init__(self, rows, tokenizer, cleaning, max_length):
        texts = [clean(row["text"], cleaning) for row in rows]
        self.ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        self.labels = [LABELS.index(row["label"]) for row in rows]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def figures(truths, answers):
    return {
        "accuracy": float(sklearn.metrics.accuracy_score(truths, answers)),
        "f1": float(sklearn.metrics.f1_score(truths, answers, pos_label=1, zero_division=0)),
    }


def arguments(training, batch, output, **more):
    """TrainingArguments of spec.training, with a batch of `batch` on one process."""
    given = {snake(name): value for name, value in training.items() if name not in OWN}
    given["per_device_train_batch_size"] = batch
    given["eval_strategy"] = training.get("evalStrategy", "No").lower()
    given["save_strategy"] = training.get("saveStrategy", "Steps").lower()
    given["lr_scheduler_type"] = snake(training.get("lrSchedulerType", "Linear")).strip("_")
    given |= {"optim": "adamw_torch_fused", "save_total_limit": 1, "report_to": "none", "disable_tqdm": True}
    given |= {"use_cpu": True, "output_dir": str(output), "dataloader_num_workers": 0}
    return transformers.TrainingArguments(**(given | more))


def trainer(model_directory, spec, train, held_out, batch, output, callbacks=(), **more):
    """A Trainer that is ready to train."""
    training = spec["training"]
    transformers.set_seed(training.get("seed", 42))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_directory, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)}
    )
    cleaning, length = spec["data"].get("clean", []), training["maxLength"]
    return transformers.Trainer(
        model=model,
        args=arguments(training, batch, output, **more),
        train_dataset=Rows(train, tokenizer, cleaning, length),
        eval_dataset=Rows(held_out, tokenizer, cleaning, length) if held_out else None,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: figures(found.label_ids, found.predictions.argmax(-1)),
        callbacks=list(callbacks),
    )


def logits_of(model_directory, rows, cleaning, max_length, batch=32):
    """Logits [rows, classes] of an exported directory, by transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_directory).eval()
    texts = [clean(row["text"], cleaning) for row in rows]
    found = []
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            part = tokenizer(
                texts[start : start + batch], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
            found.append(model(**part).logits.float())
    return torch.cat(found), model.config.id2label
