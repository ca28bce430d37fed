from fer.models.checkpoint import load_checkpoint
from fer.reports.costs import measure_cost


def test_a_residual_network_costs_less_than_the_deep_one(save_network, tmp_path):
    save_network(tmp_path / "residual", "resnet10-w32")
    save_network(tmp_path / "deep", "deep")
    residual = measure_cost(load_checkpoint(str(tmp_path / "residual")))
    deep = measure_cost(load_checkpoint(str(tmp_path / "deep")))
    assert (residual.parameters, residual.multiply_adds) == (1_227_623, 35_557_120)
    assert (deep.parameters, deep.multiply_adds) == (4_474_759, 290_475_520)
    assert residual.images_per_second > deep.images_per_second > 0


def test_an_ensemble_costs_as_much_as_its_members_together(save_network, tmp_path):
    save_network(tmp_path / "0", "resnet10-w32")
    save_network(tmp_path / "1", "resnet10-w48")
    (tmp_path / "config.json").write_text('{"members": ["0", "1"], "weights": [1, 1]}')
    cost = measure_cost(load_checkpoint(str(tmp_path)))
    assert cost.parameters == 1_227_623 + 2_758_423
    assert cost.multiply_adds == 35_557_120 + 79_877_760
