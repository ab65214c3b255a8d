"""What training starts from: pinned, checked before anything is written, loaded, recorded."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.model import base as bases
from llm_twin.model.base import check, digest
from llm_twin.model.profile import Base, Training

pytestmark = [pytest.mark.torch]

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # pragma: allowlist secret


def training(**settings):
    return Training.model_validate({"budget": {"tokens": 6000}, **settings})


def pinned(folder):
    return Base(model=str(folder), revision=digest(folder), license="MIT")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """Another architecture, with a tokenizer that has neither bos nor padding nor a template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        ["the gate keeps the runs"],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<end>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=192, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}], ids=["all", "lora"])
def test_a_folder_is_tuned_saved_and_recorded(gpt2, dataset, tmp_path, lora):
    from llm_twin.model.language_model import LocalModel
    from llm_twin.model.train import train

    rows = dataclasses.replace(dataset, preferences=[], pairs=dataset.pairs[:16])
    said, lines = pinned(gpt2), []
    given = training(lora=lora, sft={"epochs": 1, "rate": 1e-3})
    report = train(rows, tmp_path / "model", given, said, lines.append)
    assert report.base == {"model": str(gpt2), "revision": said.revision, "license": "MIT"}
    assert report.method == ("lora r=4" if lora else "all weights")
    assert report.pretrain == {}
    assert report.sft["steps"] >= 1
    assert report.heldout_after_sft < report.heldout_after_pretrain
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["base"] == report.base
    model = LocalModel.load(tmp_path / "model")
    assert type(model.network).__name__ == "GPT2LMHeadModel"
    assert model.context == 192
    assert isinstance(model.answer("What of the gate?", max_tokens=5), str)
    ((bits, characters),) = model.bits_per_character(["The gate keeps the runs. " * 40])
    assert 0 < bits / characters < 10


def test_the_digest_is_of_the_weights_and_is_printed(gpt2, tmp_path):
    said = digest(gpt2)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", said)
    command = [sys.executable, "-m", "llm_twin.model.base", str(gpt2)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert printed.stdout.strip() == said
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert digest(tmp_path) != said
    with pytest.raises(ConfigError, match="holds no weights"):
        digest(tmp_path / "none")


def test_weights_that_moved_are_refused_before_anything_is_written(gpt2, dataset, tmp_path):
    from llm_twin.model.train import train

    other = Base(model=str(gpt2), revision=f"sha256:{'0' * 64}", license="MIT")
    with pytest.raises(ConfigError, match=f"found {digest(gpt2)}, pinned sha256:000") as caught:
        check(training(), other)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError):
        train(dataset, tmp_path / "in" / "model", training(), other, print)
    assert not (tmp_path / "in").exists()


def test_what_is_no_causal_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="not a causal language model but BertForMaskedLM"):
        check(training(), pinned(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        check(training(), pinned(tmp_path))


def test_a_folder_that_is_not_there_is_no_model(tmp_path):
    said = Base(model=str(tmp_path / "none"), revision=f"sha256:{'0' * 64}", license="MIT")
    with pytest.raises(ConfigError, match=r"there is no base model: .*none"):
        check(training(), said)


def test_a_gpu_is_missed_in_time():
    import torch

    if torch.cuda.is_available():
        check(training(device="cuda"), Base())
        return
    with pytest.raises(NotReadyError, match=r"needs a GPU, .*--profile laptop or --profile tiny"):
        check(training(device="cuda"), Base())
    with pytest.raises(NotReadyError, match="needs a GPU"):
        bases.device_for(training(device="auto", lora={"quantize": "4bit"}))
    assert bases.device_for(training(device="auto")) == "cpu"


def test_bf16_is_refused_where_the_processor_cannot(monkeypatch):
    monkeypatch.setattr(bases, "_knows_bf16", lambda device: False)
    with pytest.raises(NotReadyError, match=r"bf16.*: cpu\. Set training\.precision to fp32"):
        check(training(precision="bf16"), Base())


def test_four_bits_need_their_library(monkeypatch):
    found = bases.find_spec
    without = "bitsandbytes"
    monkeypatch.setattr(bases, "find_spec", lambda name: None if name == without else found(name))
    said = training(device="auto", lora={"quantize": "4bit"})
    with pytest.raises(NotReadyError, match="bitsandbytes is not installed"):
        check(said, Base())


def test_checking_a_profile_for_a_cpu_loads_no_torch():
    code = (
        "import sys; from llm_twin.model.base import check;"
        "from llm_twin.model.profile import Base, Training;"
        "check(Training(), Base()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching one model needs: its commits, its list, its files."""

    name, commit, folder = "author/small", COMMIT, None

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = self.path.partition("?")[0]
        api = f"/api/models/{self.name}"
        names = sorted(one.name for one in self.folder.iterdir())
        if not path.startswith((api, f"/{self.name}/")):
            self.say(404, {}, {"X-Error-Code": "RepoNotFound"})
        elif self.commit not in path:
            self.say(404, {}, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"{api}/revision/"):
            config = json.loads((self.folder / "config.json").read_text())
            files = [{"rfilename": name} for name in names]
            self.say(200, {"id": self.name, "sha": COMMIT, "siblings": files, "config": config})
        elif path.startswith(f"{api}/tree/"):
            files = [
                {"type": "file", "path": name, "oid": f"{at:040x}",
                 "size": (self.folder / name).stat().st_size}
                for at, name in enumerate(names)
            ]  # fmt: skip
            self.say(200, files)
        else:
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
            etag = f'"{names.index(path.rpartition("/")[2]):040x}"'
            self.say(200, content, {"X-Repo-Commit": COMMIT, "ETag": etag})

    def say(self, status, content, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def hub(folder):
    handler = type("One", (Hub,), {"folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


CHECK = """
import sys
from llm_twin.errors import TwinError
from llm_twin.model import base
from llm_twin.model.profile import Base, Training
given = Base(model=sys.argv[1], revision=sys.argv[2], license="MIT")
try:
    base.check(Training(), given)
    folder = base.fetch(given)
    print(base.digest(folder), folder.name)
except TwinError as error:
    print(type(error).__name__, error)
"""


def ask(endpoint, home, model="author/small", revision=COMMIT, **environment):
    given = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, model, revision],
        capture_output=True,
        text=True,
        timeout=120,
        env={**given, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_on_the_hub_is_fetched_once_and_read_offline_after(gpt2, tmp_path):
    with hub(gpt2) as endpoint:
        assert ask(endpoint, tmp_path) == f"{digest(gpt2)} {COMMIT}"
    assert ask(endpoint, tmp_path) == f"{digest(gpt2)} {COMMIT}"
    assert ask(endpoint, tmp_path, HF_HUB_OFFLINE="1") == f"{digest(gpt2)} {COMMIT}"


def test_what_the_hub_does_not_have_is_said(gpt2, tmp_path):
    with hub(gpt2) as endpoint:
        said = ask(endpoint, tmp_path, model="author/none")
        assert said.startswith("ConfigError there is no such model on the hub: author/none")
        said = ask(endpoint, tmp_path, revision="f" * 40)
        assert said.startswith(
            f"ConfigError the base's revision is gone: found none, pinned {'f' * 40}"
        )
        said = ask(endpoint, tmp_path, HF_HUB_OFFLINE="1")
        assert said.startswith("NotReadyError the base model is not here")
        assert "HF_HUB_OFFLINE is set: unset it" in said
    said = ask(endpoint, tmp_path)
    assert said.startswith("NotReadyError the hub cannot be reached (")
    assert f"hf download author/small --revision {COMMIT}" in said
    assert not any(tmp_path.rglob("*.safetensors"))
