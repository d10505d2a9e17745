import pytest
import torch

from training.errors import ConfigError
from training.transformations import (
    FACTORS,
    check_image_size,
    transformation_set,
    transformed_copies,
)

PRODUCTS = {
    "rotation2*color3": 6,
    "rotation*color3": 12,
    "rotation*color6": 24,
    "rotation*flip": 8,
    "flip*rotation2*color6": 24,
}
NAMES = [*sorted(FACTORS), *PRODUCTS]


def numbered(batch: int = 1, height: int = 2, width: int = 2) -> torch.Tensor:
    """Images (B, H, W, 3) uint8 whose every value is another."""
    return torch.arange(batch * height * width * 3, dtype=torch.uint8).view(batch, height, width, 3)


def test_rotation_turns_counter_clockwise():
    corners = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)  # as one sees it: 1 2 over 3 4
    image = corners[None, :, :, None].expand(1, 2, 2, 3)
    turned = transformed_copies(image, transformation_set("rotation"))[0, ..., 0]
    assert turned.tolist() == [
        [[1, 2], [3, 4]],
        [[2, 4], [1, 3]],  # what was on the right is on top
        [[4, 3], [2, 1]],
        [[3, 1], [4, 2]],
    ]


def test_rotation2_is_the_identity_and_the_half_turn():
    images = numbered(height=2, width=3)  # need not be square
    copies = transformed_copies(images, transformation_set("rotation2"))
    assert copies.shape == (1, 2, 2, 3, 3)
    assert torch.equal(copies[:, 1], images.flip(1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_comes_first(name: str):
    images = numbered(batch=2)
    assert torch.equal(transformed_copies(images, transformation_set(name))[:, 0], images)
    assert transformation_set(name)[0].name == "identity"


@pytest.mark.parametrize("name", NAMES)
def test_every_transformation_of_a_set_differs_from_the_others(name: str):
    copies = transformed_copies(numbered(), transformation_set(name))[0]
    assert len({tuple(copy.flatten().tolist()) for copy in copies}) == len(copies)
    assert len({transform.name for transform in transformation_set(name)}) == len(copies)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_four_quarter_turns_are_the_identity(dtype: torch.dtype):
    quarter = transformation_set("rotation")[1]
    images = numbered(batch=3, height=4, width=4).to(dtype)
    turned = quarter(quarter(quarter(quarter(images))))
    assert torch.equal(turned, images)
    assert turned.dtype == dtype


def test_channels_and_images_stay_where_they_are():
    images = numbered(batch=3, height=4, width=4)
    for copy in transformed_copies(images, transformation_set("rotation")).unbind(1):
        assert torch.equal(copy.sum((1, 2)), images.sum((1, 2)))


def test_names_and_order_of_the_sets_are_what_joint_labels_rely_on():
    names = {key: [t.name for t in value] for key, value in FACTORS.items()}
    assert names["rotation"] == ["identity", "rotation-90", "rotation-180", "rotation-270"]
    assert names["rotation2"] == ["identity", "rotation-180"]


def test_quarter_turn_of_an_image_that_is_not_square_is_refused():
    with pytest.raises(ConfigError, match=r"32 x 48.*--image-size 32.*rotation2"):
        check_image_size(transformation_set("rotation"), 32, 48)


def test_half_turns_take_any_size_and_quarter_turns_take_squares():
    check_image_size(transformation_set("rotation2"), 32, 48)
    check_image_size(transformation_set("rotation"), 32, 32)


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(
        ConfigError, match=r"'rotations'.*'color3', 'color6', 'flip', 'rotation', 'rotation2'"
    ):
        transformation_set("rotations")


@pytest.mark.parametrize(("name", "number"), PRODUCTS.items())
def test_product_has_all_pairs_with_the_first_factor_outer(name: str, number: int):
    images = numbered(batch=2, height=4, width=4)
    found = transformation_set(name)
    assert len(found) == number
    expected = [images]
    for factor in name.split("*"):
        expected = [inner(outer) for outer in expected for inner in FACTORS[factor]]
    if name.startswith("rotation*flip"):  # mirroring is done first, whatever the order of the names
        expected = [
            turn(mirror(images)) for turn in FACTORS["rotation"] for mirror in FACTORS["flip"]
        ]
    assert torch.equal(transformed_copies(images, found), torch.stack(expected, dim=1))


def test_colour_permutations_are_those_of_the_paper_in_its_order():
    pixel = torch.tensor([ord("R"), ord("G"), ord("B")], dtype=torch.uint8).view(1, 1, 1, 3)
    for name, orders in {"color6": "RGB RBG GRB GBR BRG BGR", "color3": "RGB GBR BRG"}.items():
        copies = transformed_copies(pixel, transformation_set(name))[0, :, 0, 0]
        assert ["".join(map(chr, copy)) for copy in copies.tolist()] == orders.split()


def test_flip_changes_left_and_right():
    images = numbered(height=2, width=3)
    assert torch.equal(transformation_set("flip")[1](images), images.flip(2))


def test_names_of_a_product_say_what_is_done():
    names = [transform.name for transform in transformation_set("rotation2*color3")]
    assert names == [
        "identity",
        "color-gbr",
        "color-brg",
        "rotation-180",
        "rotation-180+color-gbr",
        "rotation-180+color-brg",
    ]


@pytest.mark.parametrize("name", ["rotation*rotation2", "color3*color6", "flip*flip"])
def test_two_factors_of_one_kind_are_refused(name: str):
    with pytest.raises(ConfigError, match="two factors of one kind"):
        transformation_set(name)


@pytest.mark.parametrize("name", ["", "rotation*", "rotation*spiral", "rotation,color3"])
def test_malformed_product_lists_the_factors(name: str):
    with pytest.raises(ConfigError, match=r"color3.*color6.*flip.*rotation.*rotation2"):
        transformation_set(name)
