"""Conversations of the Chit-Chat Dataset's wheel as rows of chat messages.

    python3 chats.py WHEEL FOLDER

Who speaks first is the user, the other the assistant. What somebody says before the other answers
is one message. Kept are conversations of two people in plain English letters, from 4 turns on, the
first TURNS of them, ending with the assistant's. Standard library only.
"""

import json
import pathlib
import sys
import zipfile

TURNS = 8
EVAL_EVERY = 8


def messages(conversation):
    """A row's messages; none where the conversation does not serve."""
    senders, found = [], []
    for turn in conversation["messages"]:
        who = {said["sender"] for said in turn}
        text = " ".join(said["text"].strip() for said in turn).strip()
        if len(who) != 1 or not text or not text.isascii() or not text.isprintable():
            return []
        sender = who.pop()
        if sender not in senders:
            senders.append(sender)
        role = ("user", "assistant")[senders.index(sender)] if len(senders) < 3 else None
        if role != ("user", "assistant")[len(found) % 2]:
            return []
        found.append({"role": role, "content": text})
    found = found[:TURNS]
    return found[: len(found) // 2 * 2] if len(found) >= 4 else []


def main():
    wheel, out = sys.argv[1], pathlib.Path(sys.argv[2])
    with zipfile.ZipFile(wheel) as packed:
        conversations = json.loads(packed.read("chitchat_dataset/dataset.json"))
    rows = [found for _, one in sorted(conversations.items()) if (found := messages(one))]
    held_out = rows[::EVAL_EVERY]
    train = [row for index, row in enumerate(rows) if index % EVAL_EVERY]
    for name, part in (("train", train), ("eval", held_out)):
        lines = [json.dumps({"messages": row}) + "\n" for row in part]
        (out / f"chats-{name}.jsonl").write_text("".join(lines))
    print(f"chats: {len(train)} conversations to learn from, {len(held_out)} held out", file=sys.stderr)


if __name__ == "__main__":
    main()
