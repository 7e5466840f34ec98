"""One process of transformers' Trainer for train.py: prints `step` after each optimizer step.

    python trainer.py SETTINGS.json
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "parity"))
import reference  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


class Mark(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.is_world_process_zero:
            print("step", flush=True)


def main():
    given = json.loads(pathlib.Path(sys.argv[1]).read_text())
    torch.set_num_threads(given["threads"])
    rows = reference.read_rows(pathlib.Path(given["rows"]))
    more = {"ddp_backend": "gloo"} if given["ranks"] > 1 else {}
    spec = {"training": given["training"], "data": {}}
    batch = given["training"]["perDeviceTrainBatchSize"]
    reference.trainer(given["model"], spec, rows, [], batch, given["output"], [Mark()], **more).train()


if __name__ == "__main__":
    main()
