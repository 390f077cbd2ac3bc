"""How a training of several processes is started: by torchrun or accelerate, with their own options."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agenttune.config.setting import Settings

Launcher = Literal["python", "torchrun", "accelerate"]


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _node_count(text: str) -> str:
    """Refuse what torchrun would refuse only when it starts."""
    found = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", text)
    if found is None or (found[2] is not None and int(found[2]) < int(found[1])):
        raise ValueError(f"a number of nodes, or the fewest and the most as 1:4, is wanted, not {text!r:.40}")
    return text


def _process_count(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*|auto|gpu|cpu|xpu", text):
        raise ValueError(f"a number of processes, or one of auto, gpu, cpu, xpu, is wanted, not {text!r:.40}")
    return text


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 <= int(port) < 65536):
        raise ValueError(f"host:port is wanted, such as node-0:29400, not {text!r:.80}")
    return text


Nodes = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | int), AfterValidator(_node_count)]
Processes = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | int), AfterValidator(_process_count)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Port = Annotated[int, Field(ge=1, le=65535)]


class TorchrunSettings(Settings):
    """Options of torchrun; what is left out is left to it."""

    nproc_per_node: Processes = "auto"
    """Processes on this machine: a number, or auto (one per GPU, else per core), gpu, cpu, xpu."""
    nnodes: Nodes = "1"
    """Machines, or the fewest and the most as 1:4, between which the job may shrink and grow."""
    node_rank: int = Field(0, ge=0)
    """Which of the machines this is; only without `rdzv_endpoint`. Run agenttune on machine 0: rank 0 is there."""
    master_addr: str | None = None
    """Machine 0, as the others reach it; only without `rdzv_endpoint`."""
    master_port: Port | None = None
    """A free port there; torchrun's default is 29500."""
    rdzv_backend: Literal["c10d", "etcd-v2", "etcd"] | None = None
    """How the machines meet where their number may change; c10d where `rdzv_endpoint` is set."""
    rdzv_endpoint: Endpoint | None = None
    """Where they meet, as host:port; name this machine, so that rank 0 and the control server are beside each other."""
    rdzv_id: str | None = None
    """Name of the job, the same on all machines."""
    max_restarts: int = Field(0, ge=0)
    """How often all ranks are started again after one has failed; the run goes on as its next attempt."""
    options: list[str] = Field(default_factory=list)
    """Any other option of torchrun, each word as it is written here."""

    @model_validator(mode="after")
    def _machines_can_meet(self) -> TorchrunSettings:
        several = self.nnodes != "1"
        if several and self.rdzv_endpoint is None and self.master_addr is None:
            raise ValueError("several nodes have to meet: set rdzv_endpoint (host:port) or master_addr (a host)")
        if self.rdzv_endpoint is not None and (self.master_addr is not None or self.master_port is not None):
            raise ValueError("give either rdzv_endpoint, or master_addr and master_port")
        if self.rdzv_endpoint is None and ":" in self.nnodes:
            raise ValueError(f"a changing number of nodes ({self.nnodes}) needs rdzv_endpoint")
        if self.rdzv_endpoint is not None and several and self.rdzv_id is None:
            raise ValueError("several nodes that meet at rdzv_endpoint need rdzv_id, the same on all of them")
        return self

    @property
    def is_on_several_nodes(self) -> bool:
        return self.nnodes != "1"

    def words(self, node_rank: int | str | None = None) -> list[str]:
        """The options as for torchrun; `node_rank` in place of this machine's."""
        rank = self.node_rank if node_rank is None else node_rank
        given = {"nproc-per-node": self.nproc_per_node, "nnodes": self.nnodes, "max-restarts": self.max_restarts}
        if self.rdzv_endpoint is not None:
            meeting = {"rdzv-backend": self.rdzv_backend or "c10d", "rdzv-endpoint": self.rdzv_endpoint}
            meeting |= {} if self.rdzv_id is None else {"rdzv-id": self.rdzv_id}
        elif self.is_on_several_nodes:
            meeting = {"node-rank": str(rank), "master-addr": str(self.master_addr)}
            meeting |= {} if self.master_port is None else {"master-port": str(self.master_port)}
        else:  # a free port, which two jobs on one machine do not share
            meeting = {"standalone": ""}
        named = [f"--{name}={value}" if value != "" else f"--{name}" for name, value in (given | meeting).items()]
        return [*named, *self.options]


class AccelerateSettings(Settings):
    """Options of `accelerate launch`; what is left out is left to its config file."""

    config_file: str | None = None
    """A file that `accelerate config` has written, from the folder of this config file; null: accelerate's own."""
    num_processes: int | None = Field(None, ge=1)
    """Processes on all machines together."""
    num_machines: int | None = Field(None, ge=1)
    """Machines."""
    machine_rank: int | None = Field(None, ge=0)
    """Which of the machines this is. Run agenttune on machine 0: rank 0 is there."""
    main_process_ip: str | None = None
    """Machine 0, as the others reach it."""
    main_process_port: Port | None = None
    """A free port there."""
    mixed_precision: Literal["no", "fp16", "bf16", "fp8"] | None = None
    """Precision."""
    cpu: bool = False
    """Train on processors alone."""
    options: list[str] = Field(default_factory=list)
    """Any other option of `accelerate launch`, each word as it is written here."""

    @model_validator(mode="after")
    def _machines_can_meet(self) -> AccelerateSettings:
        several = (self.num_machines or 1) > 1
        if several and self.config_file is None and (self.main_process_ip is None or self.main_process_port is None):
            raise ValueError("several machines have to meet: set main_process_ip and main_process_port")
        if self.cpu and (self.num_processes or 1) > 1:
            raise ValueError("with cpu, accelerate starts one process; for several use launcher: torchrun")
        return self

    def words(self, config_file: str | None) -> list[str]:
        """The options as for `accelerate launch`, with the config file's whole path."""
        given = self.model_dump(exclude={"config_file", "cpu", "options"}, exclude_none=True)
        named = [] if config_file is None else [f"--config_file={config_file}"]
        named += [f"--{name}={value}" for name, value in given.items()]
        if (self.num_processes or 1) > 1 and not self.cpu:
            named.append("--multi_gpu")
        return [*named, *(["--cpu"] if self.cpu else []), *self.options]
