"""What is saved can be loaded, whatever a model writes of itself; where it cannot, the save says so at once."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer

from agenttune.errors import UserError
from agenttune.trainer.checkpoints.checkpoint_files import check_fits, read_state, write_plain_model, write_state
from agenttune.trainer.checkpoints.training_state import TrainingState, restore_model
from agenttune.trainer.checkpoints.unsaved_weights import REST, bits_sum, frozen_names
from tests.trainer.conftest import At, Back, Bench, Result, TinyModel
from tests.trainer.test_branches import Once, losses

pytestmark = pytest.mark.trainer


class Odd(nn.Module):
    """Weights of several types and shapes, tied ones, frozen ones, a buffer, and a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.norm = nn.BatchNorm1d(5)
        self.embed = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.low = nn.Parameter(torch.randn(3, 2).to(torch.bfloat16))
        self.count = 0

    def get_extra_state(self) -> Any:
        return {"count": self.count}

    def set_extra_state(self, state: Any) -> None:
        self.count = state["count"]


def trained_only(model: nn.Module, folder: Path) -> None:
    """As adapters are saved: under names of their own, without what is frozen."""
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    save_file({f"adapter.{n}": t for n, t in trained.items()}, folder / "adapter_model.safetensors")


def averaged(model: nn.Module, folder: Path) -> None:
    """Other values under the names of the model's, such as an average of the last weights."""
    tensors = {n: t * 0.5 if t.is_floating_point() else t for n, t in model.state_dict().items() if torch.is_tensor(t)}
    del tensors["head.weight"]
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")


def rounded(model: nn.Module, folder: Path) -> None:
    """Half precision, for whoever uses the model."""
    state = {n: t.half() if torch.is_tensor(t) else t for n, t in model.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")


def renamed(model: nn.Module, folder: Path) -> None:
    tensors = {f"model.{n}": t.clone() for n, t in model.state_dict().items() if torch.is_tensor(t)}
    save_file(tensors, folder / "model.safetensors")


def in_shards(model: nn.Module, folder: Path) -> None:
    tensors = {n: t.clone() for n, t in model.state_dict().items() if torch.is_tensor(t)}
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({n: tensors[n] for n in part}, folder / file)
    weight_map = ", ".join(f'"{n}": "{file}"' for file, part in files.items() for n in part)
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{weight_map}}}}}')


def nothing(model: nn.Module, folder: Path) -> None:
    """A `_save` that somebody has overridden."""


def plain(model: nn.Module, folder: Path) -> None:
    write_plain_model(model, folder)


WRITERS = [trained_only, averaged, rounded, renamed, in_shards, nothing, plain]


def state_of(model: nn.Module) -> TrainingState:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    loop = {"trainer_state": {"global_step": 3}}
    return TrainingState(3, model.state_dict(), optimizer.state_dict(), loop=loop, frozen=frozen_names(model))


@pytest.mark.parametrize("write", WRITERS)
def test_all_that_training_changes_comes_back(tmp_path: Path, write: Callable[[nn.Module, Path], None]) -> None:
    model = Odd()
    model.count = 5
    saved: dict[str, Any] = {n: t.clone() if torch.is_tensor(t) else dict(t) for n, t in model.state_dict().items()}
    write_state(tmp_path / "c", state_of(model), "main", lambda folder: write(model, folder))
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if torch.is_tensor(tensor) and not name.startswith("frozen"):
                tensor.add_(1)
    model.count = 9
    check_fits(tmp_path / "c", model)
    restore_model(model, read_state(tmp_path / "c", model).model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name]) if torch.is_tensor(value) else value == saved[name], name
    if write is plain:
        assert not (tmp_path / "c" / REST).exists()


def test_frozen_weights_that_changed_since_are_named(tmp_path: Path) -> None:
    model = Odd()
    write_state(tmp_path / "c", state_of(model), "main", lambda folder: trained_only(model, folder))
    with torch.no_grad():
        model.frozen.weight[0, 0] += 1e-6
    with pytest.raises(UserError, match=r"changed since: frozen\.weight"):
        check_fits(tmp_path / "c", model)


def test_a_sum_of_bits_sees_any_value_and_no_order_of_memory() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8):
        tensor = torch.arange(35).reshape(5, 7).to(dtype)
        assert bits_sum(tensor) == bits_sum(tensor.clone())
        assert bits_sum(tensor.t()[:, 1:4].t()) == bits_sum(tensor[1:4].clone())
        other = tensor.clone()
        other[4, 6] = 0
        assert bits_sum(other) != bits_sum(tensor)


def test_a_save_that_could_not_be_loaded_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = Odd()
    state = dataclasses.replace(state_of(model), optimizer={"state": {0: {"quantized": Tracker()}}, "param_groups": []})
    with pytest.raises(UserError, match=r"could not be loaded again.*Tracker"):
        write_state(tmp_path / "c", state, "main", lambda folder: write_plain_model(model, folder))
    assert list(tmp_path.iterdir()) == []


class Tracker:
    """An object of a library's own, which torch does not load without running its code."""


class Tracked(torch.optim.SGD):
    def state_dict(self) -> Any:
        return {**super().state_dict(), "tracker": Tracker()}


def test_the_loops_own_save_says_so_too(bench: Bench) -> None:
    def build(model: nn.Module) -> Any:
        return Tracked(model.parameters(), lr=1e-3), None

    orders = [At(2, {"kind": "save_checkpoint"})]
    result = bench.run(orders, build=build, max_steps=4, save_strategy="steps", save_steps=2)
    assert "could not be loaded again" in result.ack.message
    assert result.ack.outcome == "failed"
    problems = [body.problem for body in result.bodies("checkpoint_saved")]
    assert [("could not be loaded again" in problem) for problem in problems] == [True, True]


# -- adapters ----------------------------------------------------------------------------------------------------


class Tokens(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.randint(0, 64, (12,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": row, "labels": row}


def lora(**more: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    config = peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM", **more)
    return peft.get_peft_model(net, config)


def adapters(bench: Bench, callbacks: list[Any], resume: Any = None, **more: Any) -> Result:
    how: dict[str, Any] = {
        "max_steps": 10,
        "save_strategy": "steps",
        "save_steps": 3,
        "data_seed": 3,
        "learning_rate": 0.05,
    }
    result = bench.trainer(callbacks=callbacks, model=lora(**more), evaluates=False, **how)
    for callback in callbacks:
        if isinstance(callback, Back):
            callback.result = result
    result.trainer.train_dataset = Tokens()
    result.trainer.train(resume_from_checkpoint=resume)
    return result


@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["lm_head"]}], ids=["adapters", "and a whole layer"])
def test_a_run_with_adapters_goes_back_exactly(bench: Bench, more: dict[str, Any]) -> None:
    """To what a command saved and to the Trainer's own; the files are those that peft's users know."""
    orders = [At(4, {"kind": "save_checkpoint", "tag": "x"}), At(7, {"kind": "load_checkpoint", "checkpoint_id": "x"})]
    result = adapters(bench, [Once(bench.runs_dir, orders), Back((9, "main", 3))], **more)
    assert [(ack.outcome, ack.step) for ack in result.acks()] == [("applied", 4), ("applied", 4), ("applied", 3)]
    found = losses(result)
    assert {s: found["branch-1"][s] for s in (5, 6, 7)} == {s: found["main"][s] for s in (5, 6, 7)}
    assert found["branch-2"] == {s: (found["main"] | found["branch-1"] | found["branch-2"])[s] for s in range(4, 11)}
    assert {s: found["branch-2"][s] for s in range(4, 8)} == {s: found["main"][s] for s in range(4, 8)}
    assert len(set(found["main"].values())) == 7
    folder = Path(result.bodies("checkpoint_saved")[1].path)
    assert (folder / "adapter_model.safetensors").is_file()
    assert (folder / REST).stat().st_size < 60_000  # not the model below


def test_adapters_that_a_plain_trainer_saved_are_loaded(bench: Bench) -> None:
    """A run that resumes from one may go back to it, and what it holds is there."""
    expected = losses(adapters(bench, []))["main"]
    shutil.rmtree(bench.path / "runs")
    for folder in (bench.path / "out").iterdir():
        (folder / REST).unlink()
        (folder / "agenttune.json").unlink()
    result = adapters(bench, [Back((8, "main", 6))], str(bench.path / "out" / "checkpoint-6"))
    assert [(ack.outcome, ack.step) for ack in result.acks()] == [("applied", 6)], result.acks()
    assert losses(result)["branch-1"] == {step: expected[step] for step in range(7, 11)}


def test_adapters_are_not_for_another_model(bench: Bench) -> None:
    adapters(bench, [])
    for folder in (bench.path / "out").iterdir():
        (folder / REST).unlink()
        (folder / "agenttune.json").unlink()
    with pytest.raises(UserError, match="this run's model has none"):
        check_fits(bench.path / "out" / "checkpoint-6", TinyModel())


class Averaging(Trainer):  # type: ignore[misc]
    """Saves other weights than those in training."""

    def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
        halved = {name: tensor / 2 for name, tensor in self.model.state_dict().items()}
        super()._save(output_dir, state_dict=halved)


def test_a_trainer_that_saves_other_weights_goes_back_to_its_own(bench: Bench) -> None:
    how: dict[str, Any] = {"max_steps": 10, "save_strategy": "steps", "save_steps": 3, "data_seed": 3}
    back = Back((8, "main", 6))
    result = bench.trainer(callbacks=[back], base=Averaging, **how)
    back.result = result
    result.trainer.train()
    found = losses(result)
    assert result.ack.outcome == "applied", result.ack
    assert (found["branch-1"][7], found["branch-1"][8]) == (found["main"][7], found["main"][8])
