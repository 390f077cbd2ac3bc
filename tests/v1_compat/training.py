"""A training script under a real Trainer that steps when it is told to, and tells what it sees at each step."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from agenttune import make_interactive, make_interactive_dataset
from agenttune.trainer import Options

MARK = "@@"
STEPS = 1000


class Net(nn.Module):
    """Two layers and dropout; remembers what it was last trained on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(0.1)
        self.second = nn.Linear(8, 1)
        self.seen: dict[str, Any] = {}

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor, index: torch.Tensor, shift: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        y = self.second(self.drop(self.norm(torch.relu(self.first(x))))).squeeze(-1)
        loss = ((y - labels) ** 2).mean()
        if self.training:
            self.seen = {"loss": loss.item(), "index": index.tolist(), "shift": shift.tolist(), "p": self.drop.p}
        return {"loss": loss, "logits": y}


class Sums(Dataset[dict[str, Any]]):
    """Vectors and their sums, shifted by a runtime parameter."""

    def __init__(self, limit: int = 64, shift: float = 0.0) -> None:
        if limit < 1:
            raise ValueError(f"limit is {limit}; it takes at least one row")
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randn(limit, 4, generator=generator)
        self.shift = shift

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index] + self.shift
        return {"x": row, "labels": row.sum(), "index": index, "shift": self.shift}


def tell(what: dict[str, Any]) -> None:
    sys.stdout.write(f"{MARK}{json.dumps(what)}\n")
    sys.stdout.flush()


def digest(module: nn.Module) -> str:
    values = b"".join(p.detach().numpy().tobytes() for p in module.parameters())
    return hashlib.sha256(values).hexdigest()


class Stepper(TrainerCallback):  # type: ignore[misc]
    """Takes a step for each line of standard input, and says what the step used and left."""

    def __init__(self) -> None:
        self.used: dict[str, Any] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            tell({"ready": True})
        if not sys.stdin.readline():
            raise SystemExit("nobody is there any more")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = kwargs["optimizer"].param_groups
        self.used = {name: [group[name] for group in groups] for name in ("lr", "weight_decay", "betas")}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        layers = {name: digest(layer) for name, layer in model.named_children()}
        tell({"step": state.global_step, "layers": layers, **self.used, **model.seen})

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        tell({"evaluated": metrics["eval_loss"], "at": state.global_step})


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        run_name="seed-run",
        per_device_train_batch_size=4,
        max_steps=STEPS,
        learning_rate=1e-3,
        weight_decay=0.01,
        lr_scheduler_type="linear",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=7,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    interactive = make_interactive_dataset(Sums, runtime=["shift"])
    trainer = make_interactive(Trainer)(
        model=Net(),
        args=arguments,
        train_dataset=interactive(limit=64),
        eval_dataset=Sums(8),
        agenttune=Options(run_name="seed-run", runs_dir=folder / "runs", port=0),
    )
    trainer.add_callback(Stepper())
    trainer.train()
    tell({"ended": trainer.state.global_step})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
