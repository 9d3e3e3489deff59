"""Each model learns each task it fits: 200 steps from its quick preset, with falling loss.

The paper's experiments do so in `test_configs.py`, and the same model on the other task does most
of the same: such are slow tests.
"""

import pytest
from composing import compose_run, execute

MODELS = ["linear_cde", "diagonal_cde", "s4", "s5", "mamba", "rnn", "transformer"]
TASKS = {
    "a5": ["task=a5", "task.samples=8000", "task.auxiliary_length=null", "train.mixing=none"],
    "area": [
        "task=area",
        "task.n_paths=1500",
        "task.length=10",
        "procedure=train",
        "model.pooling=mean",
    ],
}


FAST = [("rnn", "area")]


@pytest.mark.parametrize(
    ("model", "task"),
    [
        pytest.param(model, task, marks=[] if (model, task) in FAST else [pytest.mark.slow])
        for model in MODELS
        for task in TASKS
    ],
)
def test_training_loss_falls(model, task, tmp_path):
    options = [
        *TASKS[task],
        f"model={model}",
        "model.d_model=16",
        "train.steps=200",
        "train.batch_size=32",
        "train.evaluate_every=50",
        "train.stop_at=null",
        "optimizer.learning_rate=0.003",
    ]
    if model == "transformer":
        options += ["model.mixer.d_feedforward=64"]
    if task == "area" and model.endswith("cde"):
        options += [
            "model._target_=ssm.model.SequenceModel",
            "model.depth=1",
            "model.activation=gelu",
            "model.dropout=0.0",
            "model.norm=false",
            "model.positions=false",
            "model.products=float32",
            "model.mixer.solver={_target_:ssm.cde.Euler}",
        ]
        options += ["optimizer.learning_rate=0.001"]
    logger, _ = execute(compose_run(options, tmp_path))
    losses = [r.value for r in logger.records if (r.split, r.metric) == ("train", "loss")]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "model", ["linear_cde", pytest.param("diagonal_cde", marks=pytest.mark.slow)]
)
def test_frozen_features_predict_area_better_than_zero(model, tmp_path):
    options = [
        "task=area",
        f"model={model}",
        "task.n_paths=2000",
        "task.length=20",
        "model.d_model=64",
    ]
    logger, summary = execute(compose_run(options, tmp_path))
    result = summary["seeds"]["0"]
    assert result["final"]["rmse"] < 0.7 * summary["baselines"]["rmse_zero"]
    assert result["rank"] <= 64
    assert result["condition_number"] >= 1
    assert {r.split for r in logger.records} == {"train", "val"}
