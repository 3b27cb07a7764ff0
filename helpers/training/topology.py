"""What an accelerate YAML says: on how many processes and machines a training runs, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic
import yaml


class Settings(pydantic.BaseModel):
    """What is read of accelerate's YAML, in its names."""

    distributed_type: str
    num_machines: pydantic.PositiveInt = 1
    num_processes: pydantic.PositiveInt = 1
    fsdp_config: dict | None = None
    # False is YAML's reading of an unquoted no. Anything else would be trained in fp32 silently.
    mixed_precision: Literal["no", "bf16", False] = "no"

    @pydantic.model_validator(mode="after")
    def _divide(self):
        if self.num_processes % self.num_machines:
            raise ValueError(f"num_processes is no multiple of num_machines, {self.num_machines}")
        return self


@dataclass(frozen=True)
class Topology:
    """What an accelerate YAML says of a training."""

    path: Path
    processes: int  # on one machine
    machines: int
    cpu: bool
    sharded: bool  # FSDP2
    regathers: bool  # gathers a layer's weights for each pass, and frees them after it
    recomputes: bool  # computes activations again in the backward pass, to save memory
    precision: str  # of the computations; the weights are fp32

    @property
    def is_launched(self) -> bool:
        """Whether the launcher is needed; a single process does without, and saves its seconds."""
        return self.sharded or self.processes * self.machines > 1


def read_topology(path: Path) -> Topology:
    """What an accelerate YAML says.

    Whether it is for CPUs is told by its file's name, which then begins with cpu: the launcher
    starts several processes only where the YAML says MULTI_GPU, on CPUs too.
    """
    settings = Settings(**yaml.safe_load(path.read_text()))
    machines = settings.num_machines
    fsdp = settings.fsdp_config or {}
    return Topology(
        path=path,
        processes=settings.num_processes // machines,
        machines=machines,
        cpu=path.stem.startswith("cpu"),
        sharded=settings.distributed_type == "FSDP",
        regathers=fsdp.get("fsdp_reshard_after_forward", True),
        recomputes=fsdp.get("fsdp_activation_checkpointing", False),
        precision=str(settings.mixed_precision),
    )
