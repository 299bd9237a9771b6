"""Which mask a guard takes."""

import numpy as np

from maskmend.guard.choice import FITTING, NEVER, PLAIN, STEADIED, Guard
from maskmend.guard.quality import Judged


def judged(dice, doubt):
    return Judged(np.array(dice), np.array(doubt))


def test_of_those_beyond_doubt_the_best_is_taken():
    one = judged([0.7, 0.7, 0.8, 0.75], [0, 0, 0.1, 0.01])
    assert Guard(gate=1, steady=1, caution=0.0).choose(one) == 2
    assert Guard(gate=1, steady=1, caution=2.0).choose(one) == 3
    assert Guard(gate=1, steady=1, caution=6.0).choose(one) == PLAIN


def test_only_trusted_masks_are_taken_for_their_promise():
    one = judged([0.7, 0.7, 0.8, 0.75], [0, 0, 0.01, 0.01])
    rule = {"gate": 1, "steady": 1, "caution": 0.0}
    assert Guard(**rule).choose(one) == 2
    assert Guard(**rule, trusted=(3,)).choose(one) == 3
    assert Guard(**rule, trusted=()).choose(one) == PLAIN
    assert Guard(**rule, trusted=(), advised=2).choose(one) == 2


def test_no_promise_counts_where_an_image_fits_and_its_own_statistics_promise_most():
    """They may where the committee disagrees with the plain mask; other masks may anywhere."""
    own_is_best = judged([0.7, 0.7, 0.9, 0.8], [0, 0, 0.01, 0.01])
    other_is_best = judged([0.7, 0.7, 0.8, 0.9], [0, 0, 0.01, 0.01])
    guard = Guard(gate=1, steady=1, caution=4.0, trusted=(2, 3), committee=2)
    assert guard.choose(own_is_best, FITTING - 0.01) == 2
    assert guard.choose(own_is_best, FITTING) == PLAIN
    assert guard.choose(other_is_best, FITTING) == 3


def test_a_mask_above_the_gate_stays():
    one = judged([0.7, 0.7, 0.9], [0, 0.01, 0.1])
    assert Guard(gate=0.71, steady=1, caution=0.0).choose(one) == 2
    assert Guard(gate=0.7, steady=1, caution=0.0).choose(one) == PLAIN
    assert NEVER.choose(one) == PLAIN


def test_what_is_good_enough_is_steadied_where_nothing_else_is_taken():
    one = judged([0.7, 0.7, 0.9], [0, 0.01, 0.1])
    assert Guard(gate=0.7, steady=0.7, caution=0.0).choose(one) == STEADIED
    assert Guard(gate=0.7, steady=0.71, caution=0.0).choose(one) == PLAIN
    assert Guard(gate=1, steady=0.7, caution=0.0).choose(one) == 2
    assert Guard(gate=1, steady=0.7, caution=9.0).choose(one) == STEADIED


def test_what_would_lose_by_it_is_not_steadied():
    rule = Guard(gate=0, steady=0.5, caution=9.0)
    assert rule.choose(judged([0.7, 0.7, 0.9], [0, 0.1, 0.1])) == STEADIED
    assert rule.choose(judged([0.7, 0.69, 0.9], [0, 0.1, 0.1])) == PLAIN


def test_the_students_are_asked_before_steadying_whatever_the_gate_says():
    one = judged([0.7, 0.7, 0.9, 0.75], [0, 0.01, 0.1, 0.01])
    rule = {"gate": 0.6, "steady": 0.6, "caution": 9.0, "advised": 3}
    assert Guard(**rule, advice_caution=4.0).choose(one) == 3
    assert Guard(**rule, advice_caution=6.0).choose(one) == STEADIED
    assert Guard(**rule | {"gate": 1, "caution": 1.0}, advice_caution=4.0).choose(one) == 2


def test_a_committee_outvotes_a_mask_that_is_unlike_its_own():
    """However little is promised; but one beyond doubt is taken before."""
    one = judged([0.7, 0.7, 0.9, 0.71], [0, 0.01, 0.1, 0.1])
    rule = {"gate": 0.6, "steady": 0.6, "caution": 9.0, "committee": 3, "outvoted": 0.8}
    assert Guard(**rule).choose(one, 0.79) == 3
    assert Guard(**rule).choose(one, 0.8) == STEADIED
    assert Guard(**rule).choose(one) == STEADIED
    assert Guard(**rule | {"gate": 1, "caution": 1.0}).choose(one, 0.79) == 2
    nothing = judged([0.7, 0.7, 0.9, 0.7], [0, 0.01, 0.1, 0.1])
    assert Guard(**rule).choose(nothing, 0.79) == STEADIED


def test_the_rule_is_told():
    assert NEVER.rule.endswith("every mask will be left alone")
    assert Guard(gate=0.75, steady=2.0, caution=8.0).rule == (
        "a mask will be mended below a predicted Dice of 0.75 where another mask promises 8.0 times"
        " its doubt, else left alone"
    )
    others = {"advised": 3, "advice_caution": 2.0, "committee": 4, "outvoted": 0.6}
    assert Guard(gate=0.0, steady=0.5, caution=8.0, trusted=(3,), **others).rule == (
        "a mask will be outvoted where the committee agrees by less than 0.60, else advised where"
        " that promises 2.0 times its doubt, else steadied from a predicted Dice of 0.50 on, else"
        " left alone"
    )
    assert (
        "where a mean of several promises"
        in Guard(gate=1.0, steady=0.5, caution=8.0, trusted=(3,)).rule
    )
