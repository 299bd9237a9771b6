"""The paper's numbers, the round trip through YAML, and what a wrong value is told."""

from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmend.config import Config
from maskmend.config_file import config_from, differences, read_config, to_yaml
from maskmend.errors import ConfigError

REPOSITORY = Path(__file__).parents[1]
SHIPPED = sorted(
    [
        *REPOSITORY.glob("experiments/**/*.yaml"),
        *Path(str(files("maskmend"))).glob("configs/*.yaml"),
    ]
)


def value(config, dotted):
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def write(folder, text):
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message_for(tree):
    with pytest.raises(ConfigError) as caught:
        config_from(tree)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("adversarial.real", 1),
        ("adversarial.fake", -1),
        ("adversarial.target", 0),
        ("adversarial.gradient_penalty", 0),
        ("adversarial.balance", False),
        ("segmentor.width", 64),
        ("segmentor.depth", 5),
        ("discriminator.widths", (32, 64, 128, 256, 512)),
        ("discriminator.strides", (2, 2, 1, 1, 1)),
        ("discriminator.spectral_norm", "all"),
        ("discriminator.activation", "tanh"),
        ("discriminator.bottleneck", None),
        ("adaptor.widths", (16, 16)),
        ("adaptor.joint", False),
        ("anchors.kind", "paper"),
        ("anchors.patch", 0.1),
        ("mask_augmentation.rotation_deg", (0, 90)),
        ("mask_augmentation.translation", 0.1),
        ("mask_augmentation.noise_std", 0.1),
        ("training.batch", 12),
        ("training.learning_rate", 1e-4),
        ("training.discriminator_learning_rate", 1e-4),
        ("training.class_weights", "complement"),
        ("training.stop", "loss"),
        ("adaptation.keep", "last"),
        ("adaptation.prior", "discriminator"),
        ("adaptation.instance", "patient"),
        ("preprocess.spacing_mm", 1.51),
        ("preprocess.size", 224),
        ("data.folds", 3),
    ],
)
def test_defaults_are_the_papers(field, expected):
    assert value(Config(), field) == expected


def test_steps_are_chosen_by_themselves_and_are_the_papers_at_the_most():
    """The paper has 50, and a number that is chosen by itself as future work."""
    assert Config().adaptation.steps == "auto"
    assert Config().adaptation.most_steps == 50


@given(
    seed=st.integers(0, 2**31),
    learning_rate=st.floats(1e-8, 1e3),
    steps=st.integers(0, 10**6),
    percentiles=st.none() | st.just((5.0, 95.0)),
    names=st.lists(st.text(max_size=8), min_size=1, max_size=5),
)
@settings(max_examples=50, deadline=None)
def test_yaml_round_trip(tmp_path_factory, seed, learning_rate, steps, percentiles, names):
    config = config_from(
        {
            "seed": seed,
            "data": {"structures": dict(enumerate(names, start=1))},
            "preprocess": {"clip_percentiles": percentiles},
            "adaptation": {"learning_rate": learning_rate, "steps": steps},
        }
    )
    path = write(tmp_path_factory.mktemp("config"), to_yaml(config))
    again = read_config(path)
    assert again == config
    assert value(again, "adaptation.learning_rate") == learning_rate
    assert differences(config, again) == []


def test_yaml_names_every_default():
    tree = yaml.safe_load(to_yaml(Config()))
    assert tree["adversarial"]["target"] == 0
    assert tree["discriminator"]["widths"] == [32, 64, 128, 256, 512]


def test_an_empty_file_is_the_defaults(tmp_path):
    assert read_config(write(tmp_path, "# nothing\n")) == Config()


def test_differences_name_field_and_both_values():
    before, after = Config(), config_from({"adaptation": {"steps": 7}})
    assert differences(before, after) == ["adaptation.steps: auto -> 7"]


def test_a_structure_that_is_gone_is_a_difference():
    before = config_from({"data": {"structures": {1: "RV", 2: "MYO"}}})
    after = config_from({"data": {"structures": {1: "RV"}}})
    assert differences(before, after) == ["data.structures.2: MYO -> None"]
    assert differences(after, before) == ["data.structures.2: None -> MYO"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_parse_and_differ_from_the_defaults(path):
    assert differences(Config(), read_config(path))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_suit_any_processor(path):
    config = read_config(path)
    assert "bf16-mixed" not in (config.training.precision, config.adaptation.precision)


def test_a_configuration_is_shipped():
    assert SHIPPED


@pytest.mark.parametrize(
    ("tree", "wrong", "near"),
    [
        ({"trainin": {}}, "trainin", "training"),
        ({"training": {"learningrate": 1}}, "training.learningrate", "training.learning_rate"),
        ({"adaptation": {"step": 3}}, "adaptation.step", "adaptation.steps"),
        (
            {"adaptation": {"augmentation": {"noise": 1}}},
            "adaptation.augmentation.noise",
            "adaptation.augmentation.noise_std",
        ),
    ],
)
def test_unknown_key_names_the_nearest(tree, wrong, near):
    assert f"unknown key {wrong}; did you mean {near}?" in message_for(tree)


@pytest.mark.parametrize(
    ("tree", "field"),
    [
        ({"training": {"batch": "many"}}, "training.batch"),
        ({"training": {"batch": 1.5}}, "training.batch"),
        ({"training": {"batch": None}}, "training.batch"),
        ({"adversarial": {"balance": "perhaps"}}, "adversarial.balance"),
        ({"discriminator": {"widths": [32, "x"], "strides": [2, 2]}}, "discriminator.widths.1"),
        ({"training": 3}, "training"),
        ({"anchors": {"kind": "mine"}}, "anchors.kind"),
    ],
)
def test_wrong_type_names_field_and_value(tree, field):
    assert f"{field}: " in message_for(tree)


@pytest.mark.parametrize(
    ("section", "field", "bad"),
    [
        ("training", "batch", 1),
        ("training", "learning_rate", 0),
        ("training", "learning_rate", float("nan")),
        ("adaptation", "steps", -1),
        ("preprocess", "spacing_mm", 0),
        ("preprocess", "spacing_mm", float("inf")),
        ("preprocess", "size", 10**6),
        ("segmentor", "depth", 1),
        ("anchors", "patch", 0.6),
        ("mask_augmentation", "translation", 1),
        ("mask_augmentation", "noise_std", -0.1),
        ("adaptor", "scale_mean", 0),
    ],
)
def test_out_of_range_names_field_and_value(section, field, bad):
    message = message_for({section: {field: bad}})
    assert f"{section}.{field}: " in message
    assert message.endswith(f"got {bad!r}")


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"preprocess": {"size": 100}}, "preprocess.size"),
        ({"adaptor": {"final_activation": True}}, "final_activation"),
        ({"discriminator": {"widths": [32]}}, "strides"),
        ({"discriminator": {"widths": [], "strides": []}}, "strides"),
        ({"data": {"structures": {1: "a", 3: "b"}}}, "structures"),
        ({"preprocess": {"clip_percentiles": [95, 5]}}, "preprocess.clip_percentiles"),
        ({"preprocess": {"clip_percentiles": [5, 101]}}, "preprocess.clip_percentiles"),
        ({"anchors": {"swaps": [3, 2]}}, "anchors.swaps"),
        ({"anchors": {"noise": [0.2, 0.1]}}, "anchors.noise"),
        ({"mask_augmentation": {"rotation_deg": [9, -9]}}, "mask_augmentation.rotation_deg"),
        ({"data": {"structures": {0: "background", 1: "a"}}}, "structures"),
    ],
)
def test_bad_combination_names_a_field(tree, named):
    assert named in message_for(tree)


def test_overrides_win_over_the_file(tmp_path):
    path = write(tmp_path, "adaptation:\n  steps: 3\n  keep: best\n")
    config = read_config(path, ["adaptation.steps=7", "seed=2", "anchors.swaps=[2, 3]"])
    assert (config.adaptation.steps, config.adaptation.keep) == (7, "best")
    assert (config.seed, config.anchors.swaps) == (2, (2, 3))


@pytest.mark.parametrize("override", ["seed", "=3", "seed.deep=3", "seed=[", "training.batch=no"])
def test_bad_override_is_one_line(tmp_path, override):
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, "seed: 1\n"), [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [1\nb: 2\n", "1: 2\n"])
def test_unusable_file_is_one_line_naming_it(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration"):
        read_config(tmp_path / "none.yaml")


def test_no_field_can_be_changed():
    config = Config()
    with pytest.raises(AttributeError):
        config.seed = 3
