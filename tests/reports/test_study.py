from fer.reports.study import trial_table
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
