"""One process of transformers' Trainer, or of TRL's SFTTrainer, for train.py. Prints `step` after
each optimizer step, and `saved SECONDS` for each checkpoint: how long training stood still for it.

    python peer.py SETTINGS.json
"""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "parity"))
import order  # noqa: E402
import reference  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


class Mark(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        self.ended = time.monotonic()
        if state.is_world_process_zero:
            print("step", flush=True)

    def on_save(self, args, state, control, **more):
        if state.is_world_process_zero:
            print(f"saved {time.monotonic() - self.ended:.6f}", flush=True)


def classifier(given, rows, more):
    spec = {"training": given["job"]["training"], "data": {}}
    training = spec["training"]
    rows = [rows[index] for index in order.permutation(training["seed"], 0, len(rows))]
    more = more | {"train_sampling_strategy": "sequential"}
    batch = training["perDeviceTrainBatchSize"]
    return reference.trainer(given["model"], spec, rows, [], batch, given["output"], [Mark()], **more)


def chat(given, rows, more):
    import sft

    return sft.trainer(given["model"], given["job"], rows, given["output"], [Mark()], **more)


def main():
    given = json.loads(pathlib.Path(sys.argv[1]).read_text())
    torch.set_num_threads(given["threads"])
    rows = reference.read_rows(pathlib.Path(given["rows"]))
    more = {"ddp_backend": "gloo"} if given["ranks"] > 1 else {}
    kind = chat if given["job"]["task"] == "CausalLM" else classifier
    kind(given, rows, more).train()


if __name__ == "__main__":
    main()
