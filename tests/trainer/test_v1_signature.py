"""A script written for v1 finds its arguments: where the server listens, what the run is called, which class it is."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainingArguments

from agenttune import make_interactive
from agenttune.trainer import Options
from agenttune.trainer.integrations.hf_trainer import InteractiveTrainerMixin
from tests.v1_compat.training import Net, Sums

pytestmark = pytest.mark.trainer


def made(trainer_class: type[Any], folder: Path, arguments: dict[str, Any] | None = None, **given: Any) -> Any:
    settings: dict[str, Any] = {"report_to": "none", "use_cpu": True, "max_steps": 1, "disable_tqdm": True}
    settings |= {"save_strategy": "no", "remove_unused_columns": False, "dataloader_pin_memory": False}
    args = TrainingArguments(output_dir=str(folder / "out"), **settings, **(arguments or {}))
    return trainer_class(model=Net(), args=args, train_dataset=Sums(8), **given)


def listens(trainer: Any) -> tuple[str, int | None]:
    options: Options = trainer.interactive.options
    return options.host, options.port


def test_host_and_port_are_given_where_v1_took_them(tmp_path: Path) -> None:
    plain = make_interactive(Trainer)
    assert listens(made(plain, tmp_path)) == ("127.0.0.1", None)
    assert listens(made(plain, tmp_path, host="localhost", port=7100)) == ("localhost", 7100)
    named = make_interactive(Trainer, host="::1", port=7200)
    assert listens(made(named, tmp_path)) == ("::1", 7200)
    assert listens(made(named, tmp_path, port=7300)) == ("::1", 7300)
    options = Options(port=7400, run_name="mine")
    trainer = made(plain, tmp_path, agenttune=options, host="localhost")
    assert listens(trainer) == ("localhost", 7400)
    assert trainer.interactive.options.run_name == "mine"


@pytest.mark.parametrize(
    ("run_name", "name"),
    [
        ("gpt2-wikitext", "gpt2-wikitext"),
        ("gpt2 / wikitext (2)", "gpt2-wikitext-2"),
        ("../../evil", "evil"),
        ("x" * 300, "x" * 41),
        ("ünï", "n"),
        ("…", None),
        ("./out", None),
        (None, None),
    ],
)
def test_a_run_is_called_what_its_user_calls_it(run_name: str | None, name: str | None) -> None:
    """Transformers up to 4.5x put the output folder where nobody gave a name; that is nobody's name."""
    assert Options().named(run_name, "./out").run_name == name
    assert Options(run_name="mine").named(run_name, "./out").run_name == "mine"


def test_the_arguments_name_the_run_in_its_folder_and_its_log(tmp_path: Path) -> None:
    options = Options(runs_dir=tmp_path / "runs", server=False)
    made(make_interactive(Trainer), tmp_path, {"run_name": "my run"}, agenttune=options).train()
    made(make_interactive(Trainer), tmp_path, agenttune=options).train()
    first, second = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert (first.rpartition("-")[0].rpartition("-")[0], second.partition("-")[0]) == ("my-run", "run")


class Mine(InteractiveTrainerMixin, Trainer):  # type: ignore[misc]
    """The same without `make_interactive`, in a module of the user's own."""


def test_the_class_can_be_recognised_subclassed_and_wrapped_again(tmp_path: Path) -> None:
    wrapped = make_interactive(Trainer)
    assert wrapped.__name__ == "InteractiveTrainer"
    assert issubclass(wrapped, InteractiveTrainerMixin)
    assert issubclass(wrapped, Trainer)
    assert pickle.loads(pickle.dumps(Mine)) is Mine
    for kind in (wrapped, Mine, type("Child", (wrapped,), {}), make_interactive(wrapped, port=7500)):
        trainer = made(kind, tmp_path)
        assert trainer.interactive.adapter.framework.endswith(" Trainer"), "as its user knows it"
        assert [type(c).__name__ for c in trainer.callback_handler.callbacks].count("InteractiveCallback") == 1
    assert listens(trainer) == ("127.0.0.1", 7500)
