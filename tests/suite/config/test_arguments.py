"""What users type: the normaliser of the command line and the refusal of senseless cells."""

import shlex

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.arguments import BARE, CELLS, check_cell, normalise, written
from tests.configs import composed


def test_the_literal_command_becomes_a_row_of_overrides_and_a_sweep() -> None:
    words = ["task=power", "model=diffusion", "grad=score", "-m", "seed=0-9"]
    assert normalise(words) == [
        "task=power",
        "model=diffusion",
        "grad=score",
        "seed=range(0,10)",
        "-m",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "-m seed=0-9 model=gaussian grad=reparam",
        "seed=0-9 -m model=gaussian grad=reparam",
        "seed=0-9 model=gaussian grad=reparam -m",
        "seed=0-9 --multirun model=gaussian grad=reparam",
    ],
)
def test_flags_may_stand_anywhere(command: str) -> None:
    *overrides, flag = normalise(command.split())
    assert overrides == ["seed=range(0,10)", "model=gaussian", "grad=reparam"]
    assert flag in ("-m", "--multirun")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("--cfg job seed=3", "seed=3 --cfg job"),
        ("-c job seed=3", "seed=3 -c job"),
        ("--cfg=job seed=3", "seed=3 --cfg=job"),
        ("seed=3 --cfg job --resolve -p fit", "seed=3 --cfg job --resolve -p fit"),
        ("-cd DIR seed=3", "seed=3 -cd DIR"),
        ("-cp DIR -cn other seed=3", "seed=3 -cp DIR -cn other"),
        ("--config-dir DIR seed=3", "seed=3 --config-dir DIR"),
        ("--info defaults seed=3", "seed=3 --info defaults"),
        ("--info seed=3", "seed=3 --info"),
        ("-i searchpath seed=3", "seed=3 -i searchpath"),
        ("--help", "--help"),
        ("--help model=gaussian", "model=gaussian --help"),
    ],
)
def test_a_flag_keeps_its_own_value(command: str, expected: str) -> None:
    assert normalise(command.split()) == expected.split()


@pytest.mark.parametrize("word", ["seed=3", "seed=0,2,5", "seed=range(0,10)", "seed=choice(1,2)"])
def test_other_ways_to_name_seeds_pass_untouched(word: str) -> None:
    assert normalise([word, "-m"]) == [word, "-m"]


def test_only_seed_is_read_as_a_range() -> None:
    assert normalise(["output.root=runs-1-2", "fit.epochs=3"]) == [
        "output.root=runs-1-2",
        "fit.epochs=3",
    ]


def test_a_range_of_one_seed_is_that_seed() -> None:
    assert normalise(["seed=4-4", "-m"]) == ["seed=range(4,5)", "-m"]


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_a_backward_range_is_refused_with_the_range_that_was_meant(flags: list[str]) -> None:
    with pytest.raises(UserError, match=r"seed=9-0.*empty.*write seed=0-9"):
        normalise(["seed=9-0", *flags])


def test_a_range_without_the_sweep_flag_is_refused() -> None:
    with pytest.raises(UserError, match=r"seed=0-9 names 10 runs; add -m"):
        normalise(["seed=0-9"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("scale=1", "scale takes a name"),
        ("data=null", "data takes a name"),
        ("preset=null", "preset takes a name"),
        ("model=[gaussian,flow]", "several are run by a,b and -m"),
        ("task={name: power}", "task takes a name"),
        ("~seed", "no key can be left out; give it a value, seed="),
    ],
)
def test_a_choice_that_is_no_name_and_a_key_left_out_are_refused(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        normalise([word])


@pytest.mark.parametrize("flag", ["--cfg", "-cd", "--config-path", "-p"])
def test_a_flag_without_its_value_is_refused(flag: str) -> None:
    with pytest.raises(UserError, match=f"{flag} needs a value"):
        normalise(["seed=3", flag])


def test_a_bare_call_names_its_defaults() -> None:
    assert normalise([]) == list(BARE)
    chosen = dict(word.split("=") for word in BARE)
    assert chosen["data"] == "simulated"
    assert chosen["grad"] in CELLS[chosen["model"]]


def _listed(message: str) -> set[tuple[str, str]]:
    """The pairs a refusal names as valid."""
    pairs = set()
    for entry in message.split("Pairs that do: ")[1].split("; "):
        model, grads = entry.split()
        pairs |= {
            (model.removeprefix("model="), grad) for grad in grads.removeprefix("grad=").split(",")
        }
    return pairs


VALID = {(model, grad) for model, grads in CELLS.items() for grad in grads}


def test_the_valid_cells_are_those_of_table_1_the_path_score_the_flow_and_plain_models() -> None:
    assert {
        ("deterministic", "two_stage"),
        ("deterministic", "cost_weighted"),
        ("deterministic", "reparam"),
        ("gaussian", "two_stage"),
        ("gaussian", "reparam"),
        ("gaussian", "score"),
        ("diffusion", "two_stage"),
        ("diffusion", "reparam"),
        ("diffusion", "score"),
        ("diffusion", "score_path"),
        ("flow", "two_stage"),
        ("flow", "reparam"),
        ("flow", "score"),
        ("policy", "policy"),
        ("bootstrap", "two_stage"),
        ("boosting", "two_stage"),
        ("forest", "two_stage"),
    } == VALID


@pytest.mark.parametrize("model", list(CELLS))
@pytest.mark.parametrize("grad", ["two_stage", "reparam", "score", "policy"])
def test_every_pair_is_accepted_or_refused_with_the_list_of_valid_ones(
    model: str, grad: str
) -> None:
    words = [f"model={model}", f"grad={grad}"]
    if (model, grad) in VALID:
        assert normalise(words) == words
        return
    with pytest.raises(UserError) as refusal:
        normalise(words)
    assert f"model={model} grad={grad} makes no sense" in str(refusal.value)
    assert _listed(str(refusal.value)) == VALID


@pytest.mark.parametrize(
    "command",
    [
        "model=policy",  # the default grad is score
        "grad=policy",  # the default model is diffusion
        "-m model=gaussian,deterministic grad=score",
        "-m model=gaussian grad=reparam,policy",
        "-m model=choice(gaussian,policy) grad=two_stage seed=0-3",
        "model=deterministic grad=glob(*) -m",
    ],
)
def test_a_command_with_one_senseless_cell_is_refused_as_a_whole(command: str) -> None:
    with pytest.raises(UserError, match=r"makes no sense: .*Pairs that do"):
        normalise(command.split())


def test_the_last_word_of_a_key_decides() -> None:
    assert normalise(["model=policy", "model=gaussian"]) == ["model=policy", "model=gaussian"]


@pytest.mark.parametrize("words", [["model=gausian"], ["grad=scor"]])
def test_what_hydra_must_judge_is_left_to_hydra(words: list[str]) -> None:
    assert sorted(normalise(words)) == sorted(words)


def test_an_unknown_name_is_no_senseless_cell() -> None:
    check_cell("gausian", "score")
    check_cell("gaussian", "scor")


NAMES = [
    "prices (1).csv",
    "prices(1)",
    "a=b.csv",
    "a,b.csv",
    "a#b.csv",
    "[a].csv",
    "[a]",
    "{a: b}",
    "it's.csv",
    'say "hi".csv',
    '"half',
    "a$b (1).csv",
    "a; rm -r *.csv",
    "a`b.csv",
    "a!b.csv",
    "prix é.csv",
    "C:\\loads (1)\\",
    'a\\\\"b',
    "1_000",
    "1e3",
    "glob(a)",
]


@pytest.mark.parametrize("flags", [[], ["-m"]])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["data.file", "output.root"])
def test_a_name_that_is_read_as_something_else_gets_the_line_that_is_read_as_the_name(
    key: str, name: str, flags: list[str]
) -> None:
    if flags and name in ("a,b.csv", "glob(a)"):
        pytest.skip("several names, which a sweep may have")
    with pytest.raises(UserError) as refusal:
        normalise([f"{key}={name}", *flags])
    told = str(refusal.value)
    assert told.startswith(f"{key}={name}")
    line = told[told.rindex(f": '{key}=") + 2 :].removesuffix("; several values of one key: [a,b]")
    typed = shlex.split(line)
    assert normalise([*typed, *flags]) == [*typed, *flags]
    section, last = key.split(".")
    assert composed(typed)[section][last] == name


@pytest.mark.parametrize(
    "name", [*NAMES, "a${b}.csv", "a\\${b} (1).csv", "plain-1.csv", "my prices.csv"]
)
def test_what_a_printed_command_has_is_read_as_it_was(name: str) -> None:
    assert composed([f"data.file={written(name)}"]).data.file == name


def test_plain_values_are_printed_plainly() -> None:
    for text in ("prices.csv", "2004-01-01", "a/b-c.csv", "my prices.csv", "1.5", "inf", "saa"):
        assert written(text) == text


def test_the_words_of_an_unquoted_name_are_put_together() -> None:
    with pytest.raises(UserError, match=r"""big: not .* 'data.file="my big prices.csv"'$"""):
        normalise(["data.file=my", "big", "prices.csv", "seed=3"])


def test_a_key_that_cannot_be_read_is_said_and_its_value_is_not_blamed() -> None:
    with pytest.raises(UserError, match=r"^da\(ta=3: da\(ta is no key that can be read"):
        normalise(["da(ta=3"])


def test_several_values_of_a_choice_are_a_sweep_and_no_name() -> None:
    with pytest.raises(UserError, match=r"add -m to run them all$"):
        normalise(["seed=1,2"])
