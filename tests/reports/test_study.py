import json

import pytest

from fer.metrics import VAL_SCORES
from fer.reports.study import study_report, trial_table, variant_table
from fer.reports.trials import Study, Trial

EPOCH = {"val_accuracy": 0.5, "val_macro_f1": 0.4, "train_accuracy": 0.6, "epoch": 1, "seconds": 60}


def study(varied):
    trials = tuple(Trial(str(index), flags, (EPOCH,)) for index, flags in enumerate(varied))
    return Study("depth", "val_macro_f1", trials, failed=0, num_val=100, num_classes=7)


def test_the_table_names_the_cost_of_networks_that_are_compared():
    table = trial_table(study([{"model": "resnet10-w32"}, {"model": "resnet10-w48"}]))
    costs = table.set_index("model")[["parameters", "multiply_adds"]]
    assert costs.loc["resnet10-w32"].tolist() == [1_227_623, 35_557_120]
    assert costs.loc["resnet10-w48"].tolist() == [2_758_423, 79_877_760]
    assert table["minutes"].tolist() == [1, 1]


def test_the_table_names_no_cost_where_the_network_stays_the_same():
    table = trial_table(study([{"loss": "cross_entropy"}, {"loss": "squared_hinge"}]))
    assert "parameters" not in table


def test_trials_are_ranked_without_copies_of_train():
    """The network that remembers the copies best is not the best one."""
    scores = [(0.6, 0.3), (0.5, 0.4)]
    epochs = [
        {**EPOCH, "val_macro_f1": all_images, "val_macro_f1_without_copies": rest}
        for all_images, rest in scores
    ]
    trials = tuple(Trial(str(index), {"lr": index}, (e,)) for index, e in enumerate(epochs))
    metric = "val_macro_f1_without_copies"
    table = trial_table(Study("search", metric, trials, failed=0, num_val=100, num_classes=7))
    assert table["lr"].tolist() == [1, 0]
    assert table["val_macro_f1"].tolist() == [0.5, 0.6]
    assert table[metric].tolist() == [0.4, 0.3]


def repeated(scores):
    """Return a study of losses: the score of each loss and seed."""
    trials = tuple(
        Trial(
            f"{loss}-{seed}",
            {"loss": loss, "seed": seed},
            (EPOCH | dict.fromkeys(VAL_SCORES, score),),
        )
        for loss, by_seed in scores.items()
        for seed, score in enumerate(by_seed)
    )
    metric = "val_macro_f1_without_copies"
    return Study("loss", metric, trials, failed=0, num_val=100, num_classes=7)


def test_variants_have_the_mean_and_the_deviation_of_their_seeds():
    """The best trial is not one of the best variant's."""
    study = repeated({"cross_entropy": (0.3, 0.7, 0.2), "squared_hinge": (0.5, 0.6, 0.4)})
    table = variant_table(study, trial_table(study))
    assert table["loss"].tolist() == ["squared_hinge", "cross_entropy"]
    assert table["seeds"].tolist() == [3, 3]
    for score in VAL_SCORES:
        assert table[f"{score}_mean"].tolist() == pytest.approx([0.5, 0.4])
        assert table[f"{score}_std"].tolist() == pytest.approx([0.1, 0.07**0.5])
    files = study_report(study, {})
    page, content = files["index.html"].decode(), json.loads(files["report.json"])
    assert "50.00 ± 10.00 %" in page
    assert content["variants"][0]["val_accuracy_mean"] == pytest.approx(0.5)
    assert content["importance"] == {}


def test_a_single_seed_has_no_deviation():
    files = study_report(repeated({"cross_entropy": (0.3,), "squared_hinge": (0.5,)}), {})
    assert json.loads(files["report.json"])["variants"][0]["val_accuracy_std"] is None
    assert "<td>50.00 %</td>" in files["index.html"].decode()


def test_a_study_of_one_seed_has_no_variants():
    once = study([{"loss": "cross_entropy"}, {"loss": "squared_hinge"}])
    assert variant_table(once, trial_table(once)).empty
