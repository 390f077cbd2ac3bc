"""One driver a loop: the same tiny training, written as that loop's users write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback, TrainingArguments

import agenttune
from agenttune.trainer import InteractiveCallback, Options
from tests.integrations.conftest import Desk, Trained, Witness
from tests.trainer.conftest import At, Points, TinyModel

STEPS = 12
LR = 1e-3
Batch = dict[str, torch.Tensor]


class Knobs(Protocol):
    def register_knob(self, name: str, get: Callable[[], Any], set: Callable[[Any], Any]) -> None: ...  # noqa: A002


class Shifted(Points):
    """Rows whose targets are moved: by `base` for good, by `extra` live."""

    def __init__(self, count: int = 64, base: float = 0.0) -> None:
        super().__init__(count)
        self.base, self.extra = base, 0.0

    def __getitem__(self, index: int) -> Batch:
        row = super().__getitem__(index)
        return {"x": row["x"], "labels": row["labels"] + self.base + self.extra}


class ShiftedText(Dataset[dict[str, list[int]]]):
    """The same for tokens."""

    def __init__(self, count: int = 64, base: int = 0) -> None:
        self.count, self.base, self.extra = count, base, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        ids = [3 + (index * k) % 7 + self.base + self.extra for k in range(1, 9)]
        return {"input_ids": ids, "labels": ids}


class FailingModel(TinyModel):
    """Raises in a chosen training pass."""

    def __init__(self, error: BaseException | None, at: int) -> None:
        super().__init__()
        self.error, self.at = error, at
        self.seen = 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        self.seen += self.training
        if self.error is not None and self.training and self.seen == self.at:
            raise self.error
        return super().forward(x, labels)


class Loop:
    """A loop and what is expected of it.

    Attributes:
        name: For the test's id.
        goes_back: `exactly`, `but for the data's order`, or why it cannot.
        lacking: Kinds outside of its capabilities, with a word that the refusal has to contain.
        tells_end: Whether it learns of an exception before the process ends.
        layer: A layer that can be frozen.
        shifted: A dataset with the parameters `base` (initialization) and `extra` (runtime).
        dropout: A dropout layer.
    """

    name = ""
    goes_back = "exactly"
    lacking: dict[str, str] = {}  # noqa: RUF012 - a constant of each class
    tells_end = True
    layer, dropout = "first", "drop"
    shifted: type[Any] = Shifted

    def model(self, error: BaseException | None = None, at: int = 0) -> nn.Module:
        return FailingModel(error, at)

    def dataset(self) -> Any:
        return Points(64)

    def train(
        self,
        path: Path,
        orders: Sequence[At] = (),
        attached: bool = True,
        error: BaseException | None = None,
        dataset: Any = None,
    ) -> Trained:
        """Train for `STEPS` steps; an error is raised in the fifth pass."""
        torch.manual_seed(7)
        model = self.model(error, 5)
        trained = Trained(model, Witness(), path / "runs", held={"temperature": 1.0})
        self._train(trained, Desk(trained.runs_dir, orders), path, dataset or self.dataset(), attached)
        trained.steps = len(trained.witness.losses)
        return trained

    def _train(self, trained: Trained, desk: Desk, path: Path, dataset: Any, attached: bool) -> None:
        raise NotImplementedError

    def options(self, trained: Trained) -> Options:
        return Options(runs_dir=trained.runs_dir, server=False)

    def offer(self, knobs: Knobs, trained: Trained) -> None:
        held = trained.held
        knobs.register_knob("temperature", lambda: held["temperature"], lambda value: held.update(temperature=value))


# -- transformers ----------------------------------------------------------------------------------------------------


class Clerk(TrainerCallback):  # type: ignore[misc]
    """Hands in commands at the end of steps, and shows the optimizer to the witness."""

    def __init__(self, desk: Desk, witness: Witness) -> None:
        self.desk, self.witness = desk, witness

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        self.witness.watch_optimizer(getattr(optimizer, "optimizer", optimizer))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.desk.submit(state.global_step)


class TrainerLoop(Loop):
    name = "Trainer"
    base: Any = Trainer
    arguments: Any = TrainingArguments
    form = "make_interactive"

    def _train(self, trained: Trained, desk: Desk, path: Path, dataset: Any, attached: bool) -> None:
        given = self.given(trained.model, path, dataset, [Clerk(desk, trained.witness)])
        if not attached:
            trainer = self.base(**given)
        elif self.form == "make_interactive":
            trainer = agenttune.make_interactive(self.base)(**given, agenttune=self.options(trained))
            self.offer(trainer, trained)
        else:
            trainer = self.base(**given)
            callback = InteractiveCallback(self.options(trained))
            self.offer(callback, trained)
            trainer.add_callback(callback)
        trained.witness.watch_model(trained.model)
        self.prepare(trainer, dataset)
        trainer.train()

    def prepare(self, trainer: Any, dataset: Any) -> None:
        """What is left to do before training."""

    def given(self, model: nn.Module, path: Path, dataset: Any, callbacks: list[Any]) -> dict[str, Any]:
        return {
            "model": model,
            "args": self.arguments(**self.values(path)),
            "train_dataset": dataset,
            "eval_dataset": Points(8),
            "callbacks": callbacks,
        }

    def values(self, path: Path) -> dict[str, Any]:
        return {
            "output_dir": str(path / "out"),
            "per_device_train_batch_size": 4,
            "max_steps": STEPS,
            "learning_rate": LR,
            "weight_decay": 0.01,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 7,
            "data_seed": 7,
            "dataloader_pin_memory": False,
        }


class Seq2SeqLoop(TrainerLoop):
    name = "Seq2SeqTrainer"
    base = Seq2SeqTrainer
    arguments = Seq2SeqTrainingArguments


class OwnTrainer(Trainer):  # type: ignore[misc]
    """A user's subclass, with a loss of its own."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(**inputs)
        loss = 2.0 * outputs["loss"]
        return (loss, outputs) if return_outputs else loss


class OwnTrainerLoop(TrainerLoop):
    name = "subclass"
    base = OwnTrainer


class CallbackLoop(TrainerLoop):
    name = "callback"
    form = "callback"
    goes_back = "make_interactive"
    lacking = {  # noqa: RUF012
        "do_evaluate": "make_interactive",
        "load_checkpoint": "make_interactive",
        "probe": "make_interactive",
        "update_dataset": "make_interactive",
    }
    tells_end = False


# -- TRL -------------------------------------------------------------------------------------------------------------


class FailingText:
    """Raises in a chosen training pass of the model it is called before."""

    def __init__(self, error: BaseException | None, at: int) -> None:
        self.error, self.at, self.seen = error, at, 0

    def __call__(self, model: nn.Module, *_: Any) -> None:
        self.seen += model.training
        if self.error is not None and model.training and self.seen == self.at:
            raise self.error


class SftLoop(TrainerLoop):
    name = "SFTTrainer"
    layer, dropout = "transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.dropout"
    shifted = ShiftedText

    def __init__(self) -> None:
        from trl import SFTConfig, SFTTrainer

        self.base, self.arguments = SFTTrainer, SFTConfig

    def model(self, error: BaseException | None = None, at: int = 0) -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
        model: nn.Module = GPT2LMHeadModel(config)
        model.register_forward_pre_hook(FailingText(error, at))
        return model

    def dataset(self) -> Any:
        from datasets import Dataset as Table

        return Table.from_dict({"text": [" ".join(f"w{(i * k) % 29}" for k in range(1, 9)) for i in range(64)]})

    def given(self, model: nn.Module, path: Path, dataset: Any, callbacks: list[Any]) -> dict[str, Any]:
        given = super().given(model, path, dataset, callbacks) | {"processing_class": _tokenizer()}
        table = self.dataset()
        return given | {"train_dataset": table, "eval_dataset": table.select(range(8))}

    def prepare(self, trainer: Any, dataset: Any) -> None:
        """Its constructor takes tables of `datasets` only; any other dataset is set afterwards."""
        if isinstance(dataset, ShiftedText):
            trainer.train_dataset = dataset

    def values(self, path: Path) -> dict[str, Any]:
        return super().values(path) | {"max_length": 16, "bf16": False, "gradient_checkpointing": False}


class SftCallbackLoop(SftLoop):
    name = "SFTTrainer callback"
    form = "callback"
    goes_back = CallbackLoop.goes_back
    lacking = CallbackLoop.lacking
    tells_end = False


def _tokenizer() -> Any:
    """Words of the made-up language, without a download."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "[EOS]": 2} | {f"w{i}": i + 3 for i in range(29)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


# -- loops by hand ---------------------------------------------------------------------------------------------------


def loader_of(dataset: Dataset[Batch]) -> DataLoader[Batch]:
    return DataLoader(dataset, batch_size=4, shuffle=True)


def parts_of(model: nn.Module) -> tuple[torch.optim.AdamW, LambdaLR]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    return optimizer, LambdaLR(optimizer, lambda t: max(0.0, (STEPS - t) / STEPS))


def evaluation(model: nn.Module) -> Callable[[], dict[str, torch.Tensor]]:
    rows = Points(8)
    return lambda: {"loss": model(rows.x, rows.y)["loss"]}


def epochs(loader: DataLoader[Batch], steps: int) -> Iterator[Batch]:
    done = 0
    while done < steps:
        for batch in loader:
            yield batch
            done += 1
            if done == steps:
                return


class PlainLoop(Loop):
    name = "session"

    def _train(self, trained: Trained, desk: Desk, path: Path, dataset: Any, attached: bool) -> None:
        model, witness = trained.model, trained.witness
        optimizer, scheduler = parts_of(model)
        witness.watch_model(model)
        witness.watch_optimizer(optimizer)
        loader = loader_of(dataset)
        if not attached:
            for batch in epochs(loader, STEPS):
                update(model, optimizer, scheduler, batch)
            return
        with agenttune.session(
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            evaluate=evaluation(model),
            dataset=dataset,
            max_steps=STEPS,
            options=self.options(trained),
        ) as s:
            self.offer(s, trained)
            for batch in self.draw(s, loader):
                loss = update(model, optimizer, scheduler, batch)
                desk.submit(s.global_step + 1)
                if s.step({"loss": loss}):
                    break

    def draw(self, s: Any, loader: DataLoader[Batch]) -> Iterator[Batch]:
        batches: Iterator[Batch] = s.batches(loader)
        return batches


class OwnDataLoop(PlainLoop):
    """The loop draws its batches itself."""

    name = "session, own data"
    goes_back = "but for the data's order"

    def draw(self, s: Any, loader: DataLoader[Batch]) -> Iterator[Batch]:
        return epochs(loader, 3 * STEPS)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, batch: Batch) -> torch.Tensor:
    optimizer.zero_grad()
    loss: torch.Tensor = model(**batch)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    scheduler.step()
    return loss


class PatchedLoop(Loop):
    name = "autopatch"
    goes_back = "but for the data's order"
    lacking = {  # noqa: RUF012
        "update_training": "loop's own",
        "update_dataset": "draws its batches",
        "update_dataset_runtime_hyperparameters": "draws its batches",
    }
    tells_end = False

    def _train(self, trained: Trained, desk: Desk, path: Path, dataset: Any, attached: bool) -> None:
        model, witness = trained.model, trained.witness
        optimizer, scheduler = parts_of(model)
        patched = self.patch(trained, optimizer) if attached else None
        witness.watch_model(model)
        witness.watch_optimizer(optimizer)
        optimizer.register_step_post_hook(lambda *_: desk.submit(len(witness.used)))
        try:
            for batch in epochs(loader_of(dataset), STEPS):
                update(model, optimizer, scheduler, batch)
        except agenttune.TrainingStopped:
            return
        finally:
            if patched is not None and trained.model.error is None:
                patched.close()

    def patch(self, trained: Trained, optimizer: torch.optim.Optimizer) -> Any:
        patched = agenttune.autopatch(
            optimizer, trained.model, evaluate=evaluation(trained.model), can_stop=True, options=self.options(trained)
        )
        self.offer(patched, trained)
        return patched


# -- Lightning -------------------------------------------------------------------------------------------------------


class LightningLoop(Loop):
    options_of_trainer: dict[str, Any] = {}  # noqa: RUF012 - a constant of each class
    name = "Lightning"
    goes_back = "but for the data's order"
    lacking = {"probe": "Lightning", "update_dataset": "Lightning"}  # noqa: RUF012
    layer, dropout = "net.first", "net.drop"

    def _train(self, trained: Trained, desk: Desk, path: Path, dataset: Any, attached: bool) -> None:
        import lightning

        from tests.integrations.lightning_module import Clerk as LightningClerk
        from tests.integrations.lightning_module import Module

        callbacks: list[Any] = [LightningClerk(desk, trained.witness)]
        if attached:
            ours = agenttune.LightningCallback(options=self.options(trained))
            self.offer(ours, trained)
            callbacks.append(ours)
        trained.witness.watch_model(trained.model)
        trainer = lightning.Trainer(
            max_steps=STEPS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            default_root_dir=path,
            **self.options_of_trainer,
        )
        trainer.fit(Module(trained.model), loader_of(dataset), DataLoader(Points(8), batch_size=4))


LOOPS: tuple[type[Loop], ...] = (
    TrainerLoop,
    Seq2SeqLoop,
    OwnTrainerLoop,
    CallbackLoop,
    SftLoop,
    SftCallbackLoop,
    PlainLoop,
    OwnDataLoop,
    PatchedLoop,
    LightningLoop,
)
