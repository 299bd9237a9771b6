"""Slices that lie on their side are found out, and turned there and back."""

import pytest
import torch

from maskmend.guard.symmetry import AS_IT_IS, Symmetry, likelier

CLASSES = 4
ALL = [Symmetry(quarters=q, mirrored=m) for q in range(4) for m in (False, True)]


def hearts():
    """Slices with a bright corner and a less bright side, which are alike in no other symmetry."""
    images = torch.zeros(3, 1, 16, 16)
    images[..., :8, :8] = 3
    images[..., :8, 8:] = 1
    return images


def asked(images, opinions):
    return likelier(images, opinions, [one(images) for one in opinions], CLASSES)


def opinion(seed, *, sure=9.0):
    """Sure of slices that lie as in `hearts`; else its answer is chance."""
    generator = torch.Generator().manual_seed(seed)
    structures = torch.arange(16).div(4, rounding_mode="floor").expand(3, 16, 16)

    def segment(images):
        if torch.equal(images, hearts()):
            logits = sure * torch.nn.functional.one_hot(structures, CLASSES).movedim(-1, 1)
        else:
            logits = torch.randn(3, CLASSES, 16, 16, generator=generator)
        return logits.float().softmax(1)

    return segment


def test_all_eight_are_different_and_lead_back():
    made = {tuple(one.of(hearts()).flatten().tolist()) for one in ALL}
    assert len(made) == 8
    for one in ALL:
        assert torch.equal(one.back(one.of(hearts())), hearts())
    assert len({one.name for one in ALL}) == 8


@pytest.mark.parametrize("lies", [one for one in ALL if one != AS_IT_IS], ids=lambda one: one.name)
def test_the_way_back_is_found(lies):
    found, *_ = asked(lies.back(hearts()), [opinion(1), opinion(2)])
    assert found == lies
    assert torch.equal(found.of(lies.back(hearts())), hearts())


def test_what_is_only_a_little_likelier_is_left_as_it_is():
    lies = Symmetry(quarters=1)

    def opinions(sure):
        """As good as certain of what lies on its side, and this sure of what does not."""

        def segment(images):
            return opinion(1, sure=9 if torch.equal(images, hearts()) else sure)(hearts())

        return [segment, segment]

    assert lies in asked(lies.back(hearts()), opinions(sure=1))
    assert asked(lies.back(hearts()), opinions(sure=6)) == []


def test_slices_that_are_sure_as_they_are_cost_nothing():
    def never(images):
        raise AssertionError

    sure = [opinion(seed)(hearts()) for seed in (1, 2)]
    assert likelier(hearts(), [never, never], sure, CLASSES) == []
