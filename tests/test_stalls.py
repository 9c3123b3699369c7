import pytest

from jaxreid import stalls


def lines(losses, every=10, first=0, chance=None):
    watch = stalls.Stalls(chance or {"triplet": 0.2, "cross_entropy": 6.19}, first)
    for i, values in enumerate(losses):
        yield from watch.look(first + (i + 1) * every, values)


@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize("every", [1, 10, 150, 1000])
def test_each_loss_that_stays_at_chance_is_told_once(every, first):
    stays = [{"triplet": 0.2004, "cross_entropy": 6.19, "penalty": 1.0}] * 300
    told = list(lines(stays, every, first))
    assert [line.split()[2] for line in sorted(told)] == ["cross_entropy", "triplet"]
    steps = -(-stalls.PATIENCE // every) * every
    assert all(line.startswith(f"step {first + steps}: ") for line in told)
    assert all("config.model.pretrained" in line for line in told)


def test_a_loss_that_falls_is_not_told():
    falls = [{"cross_entropy": 6.19 * 0.995**i, "triplet": 0.2 * 0.99**i} for i in range(300)]
    assert not list(lines(falls))


def test_noise_around_chance_is_told_and_noise_elsewhere_is_not():
    noise = [{"triplet": 0.2 + 0.05 * (-1) ** i, "cross_entropy": 5 + (-1) ** i} for i in range(99)]
    assert [line.split()[2] for line in lines(noise)] == ["triplet"]


def test_what_comes_back_to_chance_is_told():
    back = [{"triplet": 0.1}] * 30 + [{"triplet": 0.2}] * 30
    [line] = lines(back)
    assert line.startswith("step 500: ")  # the last 0.1 was at step 300


def test_a_margin_of_zero_has_no_chance():
    assert not list(lines([{"triplet": 0.0}] * 300, chance={"triplet": 0.0}))


def test_rows_of_scores_among_the_losses_change_nothing():
    stays = [{"triplet": 0.2}, {"rank1": 0.5, "mAP": 0.4}] * 30
    [line] = lines(stays, chance={"triplet": 0.2})
    assert line.startswith("step 210: ")  # the first row of losses after 200 steps
