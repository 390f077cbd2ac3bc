"""Commands about the training dataset and the layers of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from agenttune.protocol.commands.base import AskedValue, CommandBase, Impact, Need, Redefines, Risk
from agenttune.protocol.commands.registry import register
from agenttune.protocol.commands.value_types import Bool, Float, Free, Scalar, Text

if TYPE_CHECKING:
    from agenttune.protocol.proposals import Change


class _DatasetValues(CommandBase):
    """New values of the dataset's parameters."""

    redefines = "training"
    values: dict[Text, Free] = Field(min_length=1)

    def asked(self) -> Iterator[AskedValue]:
        for name, value in self.values.items():
            yield AskedValue(name, f"values.{name}", value, "dataset")

    def inverse(self, changes: Sequence[Change]) -> dict[str, Any]:
        return {"kind": self.kind, "values": {change.name: change.previous for change in changes}}


@register
class UpdateDataset(_DatasetValues):
    """Rebuild the training dataset with other initialization parameters."""

    risk = Risk.DANGER
    is_set_again = True
    needs = Need.INITIALIZATION_PARAMETER
    example = {"kind": "update_dataset", "values": {"block_tokens": 256}}
    kind: Literal["update_dataset"] = "update_dataset"


@register
class UpdateDatasetRuntimeHyperparameters(_DatasetValues):
    """Change runtime parameters of the training dataset, from the next batch on."""

    risk = Risk.TUNE
    is_set_again = True
    needs = Need.RUNTIME_PARAMETER
    example = {
        "kind": "update_dataset_runtime_hyperparameters",
        "values": {"weights": {"wikitext": 0.9, "gsm8k": 0.1}},
    }
    kind: Literal["update_dataset_runtime_hyperparameters"] = "update_dataset_runtime_hyperparameters"


FREEZE = "requires_grad_"
"""The layer operation that lets a layer be trained, or not."""


@register
class ModelLayerOperation(CommandBase):
    """Run an allowed operation on one layer.

    `requires_grad_` also takes the name of a parameter that is the model's own and lies in no layer.
    """

    risk = Risk.DANGER
    redefines = "training"
    needs = Need.LAYER_OPERATION
    example = {
        "kind": "model_layer_operation",
        "layer_name": "transformer.h.1.mlp.c_fc",
        "operation_name": "reset_parameters",
    }
    kind: Literal["model_layer_operation"] = "model_layer_operation"
    layer_name: Text = Field(max_length=512)
    operation_name: Text = Field(max_length=128)
    params: dict[Text, Free] = Field(default_factory=dict)

    def redefines_by(self, changed: str) -> Redefines:
        # Frozen or not, a layer computes what it did.
        return "nothing" if self.operation_name == FREEZE else self.redefines

    def touched(self) -> frozenset[str]:
        return frozenset({f"layer {self.layer_name}"})

    def changed_layer(self) -> str:
        return self.layer_name

    def inverse(self, changes: Sequence[Change]) -> dict[str, Any] | None:
        was = changes[0].previous
        if self.operation_name != FREEZE or not isinstance(was, bool):  # no bool: some of the layer was trained before
            return None
        return {**self.model_dump(exclude={"params"}), "params": {"requires_grad": was}}


@register
class ModelLayerParameterUpdate(CommandBase):
    """Change a hyperparameter of one layer, such as dropout's `p`."""

    risk = Risk.DANGER
    is_set_again = True
    redefines = "training"
    needs = Need.LAYER_PARAMETER
    example = {
        "kind": "model_layer_parameter_update",
        "layer_name": "transformer.drop",
        "param_name": "p",
        "value": 0.2,
    }
    kind: Literal["model_layer_parameter_update"] = "model_layer_parameter_update"
    layer_name: Text = Field(max_length=512)
    param_name: Text = Field(max_length=128)
    value: Scalar | list[Float]

    def touched(self) -> frozenset[str]:
        return frozenset({f"layer {self.layer_name}"})

    def changed_layer(self) -> str:
        return self.layer_name

    def inverse(self, changes: Sequence[Change]) -> dict[str, Any] | None:
        return {**self.model_dump(), "value": changes[0].previous} if len(changes) == 1 else None


@register
class ReadModel(CommandBase):
    """Read the model's layers, with parameter counts and what is trainable; the ack carries the tree."""

    risk = Risk.OBSERVE
    impact = Impact.NONE
    is_read = True
    example = {"kind": "read_model", "layer_name": "transformer.h.0", "norms": True}
    kind: Literal["read_model"] = "read_model"
    layer_name: Text = Field("", max_length=512, description="Only this layer and what is in it. Default: all.")
    norms: Bool = Field(False, description="Also the norms of weights and of the last gradients, layer by layer.")
