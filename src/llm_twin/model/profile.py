"""A profile of continuous training: which base, how it is tuned, on what, judged how, run where.

A profile is a YAML file, usually in ``configs/ct``; what it does not say has the defaults below.
Unknown names are refused, so that a typing mistake is no silent default.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm_twin.errors import ConfigError

SCRATCH = "scratch"
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """Parse a time like ``60s``, ``2m``, ``1.5h`` or ``90``.

    Raises:
        ConfigError: it is not a positive time.

    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        value = float(number) * UNITS[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ConfigError("a budget is a time above zero", repr(text), "Write it like --budget 60s")
    return value


def _time(text: str) -> str:
    try:
        seconds(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text


Time = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_time)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


class Strict(BaseModel):
    """Refuses names that it does not know, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(Strict):
    """The weights that training starts from.

    Attributes:
        model: ``scratch`` (a small Llama, pretrained on the corpus), a name on the Hugging Face
            hub, or a folder in the hub's format.
        revision: what exactly: a commit of 40 hex digits for the hub, ``sha256:`` and 64 hex
            digits of the weights for a folder (see ``model.base.digest``); nothing for scratch.
        license: of the base, recorded in the bundle: an SPDX identifier or the licence's name.

    """

    model: str = SCRATCH
    revision: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|sha256:[0-9a-f]{64})?$")] = ""
    license: str = ""

    @property
    def scratch(self) -> bool:
        """Whether there is no base yet."""
        return self.model == SCRATCH

    @model_validator(mode="after")
    def _pinned(self) -> Base:
        if not self.scratch and not (self.revision and self.license):
            raise ValueError("a base model needs its revision and its license written down")
        return self


class Pretrain(Strict):
    """How a base from scratch is made; used with ``base.model: scratch`` alone.

    Attributes:
        epochs: most passes over the training texts; more predicts other documents worse.

    """

    epochs: Positive = 9


class Lora(Strict):
    """Low-rank adapters instead of all weights; merged into the base when training ends.

    Attributes:
        rank: of the adapters.
        alpha: their scale.
        dropout: on their input.
        targets: names of layers, or ``all-linear``.
        quantize: ``4bit`` holds the base in NF4 while it trains (QLoRA; needs a GPU).

    """

    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.05
    targets: str | list[str] = "all-linear"
    quantize: Literal["none", "4bit"] = "none"


class Tuning(Strict):
    """What instruction tuning and preference tuning have in common.

    Attributes:
        epochs: passes over the rows; 0 leaves the phase out.
        rate: peak learning rate.
        batch: rows at a time on the device.
        accumulate: batches for one step of the optimizer.
        length: most tokens of a row; 0: what the base can read, 2048 at most.
        schedule: of the rate over the steps.
        warm_up: share of the steps in which the rate rises.
        gradient_checkpointing: less memory for more time.

    """

    epochs: Annotated[float, Field(ge=0)] = 2
    rate: Positive = 5e-4
    batch: Count = 8
    accumulate: Count = 1
    length: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warm_up: Share = 0.0
    gradient_checkpointing: bool = False


class Sft(Tuning):
    """Instruction tuning.

    Attributes:
        packing: fill rows up with the next ones, kept apart by position ids.

    """

    packing: bool = False


class Dpo(Tuning):
    """Direct preference optimisation, against the weights after instruction tuning.

    Attributes:
        beta: how closely the model stays to those.

    """

    epochs: Annotated[float, Field(ge=0)] = 2
    rate: Positive = 3e-5
    beta: Positive = 0.1


class Budget(Strict):
    """What one training may cost; the first limit that is reached ends it, with what it has.

    Attributes:
        time: of the clock below; empty: no limit. Without ``tokens`` the rate falls with it, so
            two runs differ a little.
        clock: ``cpu`` counts CPU seconds of all threads, ``wall`` seconds.
        tokens: positions learned from in all phases; 0: no limit. With it the rate falls with
            tokens, so that the same seed makes the same model on the same machine.
        money: most that may be spent, in the currency of ``hourly``; 0: no limit.
        hourly: price of an hour of the machine.

    """

    time: Annotated[str, Field(coerce_numbers_to_str=True)] = ""
    clock: Literal["cpu", "wall"] = "cpu"
    tokens: Annotated[int, Field(ge=0)] = 0
    money: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    hourly: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0

    @model_validator(mode="after")
    def _limited(self) -> Budget:
        if self.time:
            _time(self.time)
        if self.money and not self.hourly:
            raise ValueError("a budget in money needs the price of an hour: hourly")
        if self.money and self.clock != "wall":
            raise ValueError("a budget in money is of hours that pass: set clock to wall")
        return self

    @property
    def seconds(self) -> float:
        """Of the clock; inf when only tokens limit it."""
        limits = [seconds(self.time)] if self.time else []
        if self.money:
            limits.append(self.money / self.hourly * 3600)
        return min(limits, default=math.inf)


class Checkpoints(Strict):
    """What a killed training goes on from.

    Attributes:
        every: time between two of them; a kill loses at most that much work.
        keep: how many are kept of each phase.

    """

    every: Time = "10s"
    keep: Count = 2


class Stopping(Strict):
    """Early stopping on the rows set aside from training.

    Attributes:
        patience: evaluations without a better loss after which a phase ends; 0: never.
        evaluations: how often they are scored in a phase.

    """

    patience: Annotated[int, Field(ge=0)] = 0
    evaluations: Count = 8


class Training(Strict):
    """How the base is tuned.

    Attributes:
        device: ``auto`` takes a GPU if there is one.
        precision: of the arithmetic; bf16 needs a GPU that knows it, or a CPU with AMX.

    """

    device: Literal["auto", "cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    pretrain: Pretrain = Pretrain()
    lora: Lora | None = None
    sft: Sft = Sft()
    dpo: Dpo = Dpo()
    budget: Budget = Budget(time="60s")
    checkpoints: Checkpoints = Checkpoints()
    stopping: Stopping = Stopping()

    @model_validator(mode="after")
    def _possible(self) -> Training:
        if self.lora and self.lora.quantize == "4bit" and self.device == "cpu":
            raise ValueError("4-bit weights need a GPU: set device to cuda or quantize to none")
        return self


class Generation(Strict):
    """Pairs written by a language model behind an OpenAI-compatible endpoint.

    Attributes:
        model: its name; empty: none is asked. The endpoint and key are TWIN_LLM_URL, TWIN_LLM_KEY.
        per_chunk: pairs asked for from one passage.
        chunks: most passages that are asked about.
        price_in: of a million prompt tokens.
        price_out: of a million completion tokens.
        cost: most that one run may spend; passages beyond it are left out, which the report says.

    """

    model: str = ""
    per_chunk: Count = 3
    chunks: Count = 200
    price_in: Annotated[float, Field(ge=0)] = 0
    price_out: Annotated[float, Field(ge=0)] = 0
    cost: Annotated[float, Field(ge=0)] = 1.0


class Data(Strict):
    """What is learned from besides readers' corrections.

    Attributes:
        instructions: paths of the Handbook's instruction sets to take in, as far as grounded.
        preferences: paths of its preference sets.
        grounding: least share of an imported answer's terms and trigrams that must be in the
            corpus's passages for the row to be taken.
        duplicates: share of common words above which two rows count as one.
        preferences_from_corpus: whether preference pairs are made of the corpus itself.
        generate: pairs from a language model.
        hub: repository on the Hugging Face hub that the set is pushed to; empty: none. The token
            is HF_TOKEN.

    """

    instructions: list[str] = []
    preferences: list[str] = []
    grounding: Share = 0.3
    duplicates: Share = 0.8
    preferences_from_corpus: bool = True
    generate: Generation = Generation()
    hub: str = ""


class Evaluation(Strict):
    """What a candidate is measured by besides held-out texts and retrieval.

    Attributes:
        samples: texts that the candidate writes for the style figures; 0: none.
        length: words of each.
        controls: texts by other authors to tell the style from: paths of corpora.
        questions: how many questions the answer path is asked, for groundedness and citations.
        judge: model behind TWIN_JUDGE_URL that judges answers; empty: none does.
        judgements: how often it judges each answer, to know its noise.

    """

    samples: Annotated[int, Field(ge=0)] = 12
    length: Count = 120
    controls: list[str] = []
    questions: Annotated[int, Field(ge=0)] = 60
    judge: str = ""
    judgements: Count = 3


class Gate(Strict):
    """The rule that lets a candidate through.

    Attributes:
        confidence: of the bootstrap interval over paired differences.
        floors: least value of a figure, by dotted name, that may be served at all.
        margins: for each figure that decides, the mean difference under which nothing is said.

    """

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.99
    floors: dict[str, float] = {"retrieval.hit@5": 0.5}
    margins: dict[str, float] = {"language": 0.1, "retrieval": 0.0}


class Remote(Strict):
    """Where the pipeline runs; what belongs to one account is a setting, not a profile.

    Attributes:
        stack: ``local``, ``sagemaker`` or ``kubernetes``; see ``invoke ct.stack``.
        instance: machine of the SageMaker job.
        gpus: of the Kubernetes job.
        start: time after which a job that has not begun is given up and told of.
        silence: time without a sign of life after which a running job counts as dead.
        time: most that the job may take.

    """

    stack: Literal["local", "sagemaker", "kubernetes"] = "local"
    instance: str = "ml.g5.2xlarge"
    gpus: Annotated[int, Field(ge=0)] = 1
    start: Time = "20m"
    silence: Time = "15m"
    time: Time = "6h"


class Profile(Strict):
    """Everything that one way of training says.

    Attributes:
        name: the file's name without its suffix.
        description: one line for a person.

    """

    name: str
    description: str = ""
    base: Base = Base()
    training: Training = Training()
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    remote: Remote = Remote()

    def with_budget(self, text: str) -> Profile:
        """The same with another time, or number of tokens (``300ktok``), that training may take.

        Raises:
            ConfigError: the text is neither.

        """
        if not text:
            return self
        now = self.training.budget
        if text.endswith("tok"):
            budget = now.model_copy(update={"tokens": _tokens(text)})
        else:
            seconds(text)
            budget = now.model_copy(update={"time": text, "tokens": 0})
        training = self.training.model_copy(update={"budget": budget})
        return self.model_copy(update={"training": training})

    def with_stack(self, name: str) -> Profile:
        """The same, run on another stack.

        Raises:
            ConfigError: there is no such stack.

        """
        known = get_args(Remote.model_fields["stack"].annotation)
        if not name:
            return self
        if name not in known:
            raise ConfigError("there is no such stack", repr(name), f"Use {', '.join(known)}")
        return self.model_copy(update={"remote": self.remote.model_copy(update={"stack": name})})

    def line(self) -> str:
        """What it does, on one line for a list."""
        training = self.training
        how = f"LoRA r={training.lora.rank}" if training.lora else "all weights"
        limits = training.budget
        told = [limits.time and f"{limits.time} ({limits.clock})"]
        told.append(f"{limits.tokens:,} tokens" if limits.tokens else "")
        told.append(f"{limits.money:g} at {limits.hourly:g} an hour" if limits.money else "")
        base = self.base.model + (f" ({self.base.license})" if self.base.license else "")
        return (
            f"{self.name:<12}{base}; {how}; {training.device} {training.precision};"
            f" at most {', '.join(filter(None, told)) or 'its epochs'}; {self.remote.stack}"
            f"\n{'':<12}{self.description}"
        )


def _tokens(text: str) -> int:
    number, scale = text.removesuffix("tok"), 1
    for unit, size in (("k", 1e3), ("M", 1e6)):
        if number.endswith(unit):
            number, scale = number[:-1], int(size)
    try:
        value = float(number) * scale
    except ValueError:
        value = 0
    if not 1 <= value < math.inf:
        raise ConfigError("a budget in tokens is a number", repr(text), "Write it like 300ktok")
    return int(value)


def find(name: str, folder: Path) -> Path:
    """The file of a profile: by name in a folder, or by path.

    Raises:
        ConfigError: there is none; it says which there are.

    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ConfigError("there is no such profile", name, "See: invoke ct.profiles")
    named = folder / f"{name}.yaml"
    if path.name != name or not named.is_file():
        known = ", ".join(sorted(one.stem for one in folder.glob("*.yaml"))) or "none"
        raise ConfigError(
            "there is no such profile", repr(name), f"There are: {known}. Or give a .yaml file"
        )
    return named


def load(path: Path) -> Profile:
    """Read and check a profile's file, and the one it extends.

    Raises:
        ConfigError: it is not YAML, or says something that no profile says; each mistake is named.

    """
    said: dict[str, Any] = {}
    for file in files(path):
        said = _merged(_read(file), said)
    said.pop("extends", None)
    try:
        return Profile.model_validate({**said, "name": path.stem})
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'profile'}: {one['msg']}" for one in error.errors()
        )
        raise ConfigError(
            "the profile is not right", path, f"{wrong}. See docs/how-to/train.md"
        ) from None


def files(path: Path) -> list[Path]:
    """A profile's file and those that it extends (``extends: gpu``), nearest first.

    Raises:
        ConfigError: one of them cannot be read, is not there, or extends itself.

    """
    found = [path]
    while other := _read(found[-1]).get("extends"):
        nearest = find(str(other), path.parent)
        if nearest in found:
            raise ConfigError("the profile extends itself", path)
        found.append(nearest)
    return found


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        said: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("the profile cannot be read", path, str(error)) from None
    if not isinstance(said, dict):
        raise ConfigError("a profile is a mapping of names to values", path)
    return said


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both, name by name; what is above wins."""
    both = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], dict) and isinstance(above[name], dict):
            both[name] = _merged(below[name], above[name])
    return both
