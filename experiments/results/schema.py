"""What a run's files must hold: valid JSON with wrong contents is damage, and is said to be."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0, lt=2**63)]


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class SeedSummary(_File):
    """A seed in `summary.json`."""

    final: dict[str, float]
    steps: Count | None = None
    best_step: Count | None = None
    steps_to_threshold: Count | None = None
    failed_at: Count | None = None
    failed_in: str | None = None


class Summary(_File):
    """`summary.json`."""

    metric: str
    seeds: dict[str, SeedSummary]
    baselines: dict[str, float]
    training_seconds: float = 0.0
    threshold: float | None = None
    steps: Count | None = None
    configuration: str | None = None
    code: str | None = None


class Description(_File):
    """What a checkpoint says of itself."""

    procedure: dict[str, Any]
    config: dict[str, Any]
    code: str
    metrics_bytes: Count
    metrics_sha256: str | None = None
    wandb_ids: dict[str, str] | None = None


class SeedProgress(_File):
    """A seed in a checkpoint of gradient descent."""

    model_config = ConfigDict(strict=True, extra="forbid")

    final: dict[str, float]
    best: float | None
    best_step: Count | None
    steps: Count
    steps_to_threshold: Count | None
    failed_at: Count | None
    failed_in: str | None
    active: bool


class Training(_File):
    """What gradient descent says in a checkpoint."""

    step: Count
    evaluated: Annotated[int, Field(ge=-1)]
    seconds: Annotated[float, Field(ge=0)]
    results: dict[str, SeedProgress]


class ReadOut(_File):
    """What the readout says in a checkpoint."""

    seconds: Annotated[float, Field(ge=0)]
    results: dict[str, SeedSummary]


def check(kind: type[BaseModel], data: Any) -> Mapping[str, Any]:
    """The data, if they are of a kind.

    Raises:
        ValueError: naming the first key that is wrong, what it is, and what it should be.
    """
    try:
        kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        expected = first["msg"].removeprefix("Input should be ")
        got = "nothing" if first["type"] == "missing" else repr(first["input"])[:60]
        raise ValueError(f"{where}: got {got}; expected {expected}") from None
    return data


def check_summary(data: Any) -> Mapping[str, Any]:
    """A summary, whose every seed that came to an end has the metric.

    Raises:
        ValueError: naming what is wrong.
    """
    check(Summary, data)
    for seed, result in data["seeds"].items():
        if data["metric"] not in result["final"] and result.get("failed_at") is None:
            raise ValueError(f"seeds.{seed}.final: got no {data['metric']}; expected one")
    return data
