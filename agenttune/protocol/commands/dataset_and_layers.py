"""Commands about the training dataset and the layers of the model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.commands.base import CommandBase, Redefines, Risk
from agenttune.protocol.commands.values import Bool, Float, Free, Scalar, Text


class UpdateDataset(CommandBase):
    """Rebuild the training dataset with other initialization parameters."""

    risk = Risk.DANGER
    redefines = "training"
    example = {"kind": "update_dataset", "values": {"block_tokens": 256}}
    kind: Literal["update_dataset"] = "update_dataset"
    values: dict[Text, Free] = Field(min_length=1)


class UpdateDatasetRuntimeHyperparameters(CommandBase):
    """Change runtime parameters of the training dataset, from the next batch on."""

    risk = Risk.TUNE
    redefines = "training"
    example = {
        "kind": "update_dataset_runtime_hyperparameters",
        "values": {"weights": {"wikitext": 0.9, "gsm8k": 0.1}},
    }
    kind: Literal["update_dataset_runtime_hyperparameters"] = "update_dataset_runtime_hyperparameters"
    values: dict[Text, Free] = Field(min_length=1)


FREEZE = "requires_grad_"
"""The layer operation that lets a layer be trained, or not."""


class ModelLayerOperation(CommandBase):
    """Run an allowed operation on one layer."""

    risk = Risk.DANGER
    redefines = "training"
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


class ModelLayerParameterUpdate(CommandBase):
    """Change a hyperparameter of one layer, such as dropout's `p`."""

    risk = Risk.DANGER
    redefines = "training"
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


class ReadModel(CommandBase):
    """Read the model's layers, with parameter counts and what is trainable; the ack carries the tree."""

    risk = Risk.OBSERVE
    example = {"kind": "read_model", "layer_name": "transformer.h.0", "norms": True}
    kind: Literal["read_model"] = "read_model"
    layer_name: Text = Field("", max_length=512, description="Only this layer and what is in it. Default: all.")
    norms: Bool = Field(False, description="Also the norms of weights and of the last gradients, layer by layer.")
