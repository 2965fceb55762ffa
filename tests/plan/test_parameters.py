"""What is frozen and what learns slower, and the memory that is told of it."""

from __future__ import annotations

import pytest
import torch

from seg3d.common.errors import UserError
from seg3d.config import TrainConfig
from seg3d.plan import build_network, predicted_peak
from seg3d.training.optimiser import learning_rate, make_optimizer, make_schedule
from tests.plans import small_config, small_plan

# Small patches would keep more of the few layers that are left: auto leaves 64 MiB to a patch.
ONE_BIT = {"bits": 1}


def network_of(**train: object) -> torch.nn.Module:
    return build_network(small_config(train=train), small_plan())


def test_patterns_freeze_by_name() -> None:
    network = network_of(freeze=["encoder.*", "heads.0.bias"])
    trained = {name for name, one in network.named_parameters() if one.requires_grad}
    assert trained and all(name.startswith(("up.", "decoder.", "heads.0.w")) for name in trained)
    assert all(one.requires_grad for one in network_of().parameters())


@pytest.mark.parametrize(
    ("patterns", "problem"),
    [(["encoders.*"], "not there\n  given: encoders"), (["*"], "nothing to be trained")],
)
def test_patterns_that_cannot_be(patterns: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        network_of(freeze=patterns)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_factors_of_the_learning_rate(optimizer: str) -> None:
    train = TrainConfig(
        optimizer=optimizer,
        learning_rate=0.5,
        epochs=2,
        iterations_per_epoch=5,
        warmup=0.0,
        lr_factors={"encoder.0.*": 0.1, "encoder.*": 0.2, "up.*": 0.1},
        freeze=["heads.*"],
    )
    network = network_of(freeze=["heads.*"])
    made = make_optimizer(network, train)
    schedule = make_schedule(made, train)
    names = {id(one): name for name, one in network.named_parameters()}
    factors = {
        names[id(one)]: group["lr"] / 0.5 for group in made.param_groups for one in group["params"]
    }
    assert factors["encoder.0.0.conv.weight"] == pytest.approx(0.1)
    assert factors["encoder.1.0.conv.weight"] == pytest.approx(0.2)
    assert factors["up.0.weight"] == pytest.approx(0.1)
    assert factors["decoder.0.0.norm.bias"] == 1
    assert not any(name.startswith("heads") for name in factors)
    for _ in range(3):
        made.step()
        schedule.step()
        rates = {group["factor"]: group["lr"] for group in made.param_groups}
        assert learning_rate(made) == pytest.approx(rates[1.0])
        assert rates[0.1] == pytest.approx(0.1 * rates[1.0])
    assert rates[1.0] < 0.5
    with pytest.raises(UserError, match="train.lr_factors names a parameter"):
        make_optimizer(network, train.model_copy(update={"lr_factors": {"encoder": 0.1}}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_encoder_takes_less_memory_in_all_its_parts(dtype: torch.dtype) -> None:
    plan = small_plan(patch_size=(64, 64, 64), features=[16, 32])
    whole = predicted_peak(small_config(probing=ONE_BIT), plan, dtype)
    frozen = predicted_peak(
        small_config(probing=ONE_BIT, train={"freeze": ["encoder.*"]}), plan, dtype
    )
    assert frozen.codes < whole.codes
    assert frozen.total < whole.total
    network = build_network(small_config(), plan)
    of_encoder = sum(one.nbytes for one in network.encoder.parameters())
    assert whole.weights - frozen.weights == of_encoder, "momentum"
