"""Conditions: the original's tokens, what users may give, and how it is drawn."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDENS
from golden import close, drawn_like, first_stage_params, gpt_params, weights
from PIL import Image
from tiny import TINY

from taming_jax.conditioning import (
    CONDITIONS,
    ConditionConfig,
    Coordinate,
    LowResolution,
    ObjectsCondition,
    StageCondition,
    annotations_of,
    has_stage,
    make_condition,
)
from taming_jax.drawing.condition_files import read_condition
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.nn import maps
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import two_stage
from taming_jax.training import loop
from taming_jax.two_stage import TwoStage


def network(content="image", channels=3):
    return VQGAN(dataclasses.replace(TINY, content=content, in_channels=channels, out_channels=channels))


def test_coordinates_are_the_originals(golden):
    arrays = golden("coord")
    condition = Coordinate(1024, 16, (4, 6))
    np.testing.assert_array_equal(condition.ids(arrays["coord"][..., 0]), arrays["indices"])
    whole = condition.parse({}, 1, (64, 96))
    np.testing.assert_array_equal(condition.tokens(whole, 1, {}), arrays["indices"][:1])
    crop = {"crop": jnp.asarray([[0, 0, 64, 96]]), "image": jnp.zeros((1, 64, 96, 3))}
    np.testing.assert_array_equal(condition.tokens(crop, 1, {}), arrays["indices"][:1])
    assert condition.pixels({"coordinate": arrays["coord"][..., 0]}) == (64, 96)
    with pytest.raises(ValueError, match=r"values outside \[0, 1\]"):
        condition.parse({"coordinate": np.full((64, 96), 2.0)}, 1, (64, 96))
    with pytest.raises(ValueError, match=r"64 x 72 pixels have no whole cells of 16.*choose multiples of 16"):
        condition.parse({}, 1, (64, 72))
    with pytest.raises(ValueError, match=r"coordinate is 64 x 96 pixels; expected 32 x 32"):
        condition.parse({"coordinate": np.zeros((64, 96))}, 1, (32, 32))


def test_coordinates_of_a_mirrored_crop_are_those_in_the_mirrored_image():
    condition = Coordinate(1024, 4, (2, 2))
    image = jnp.zeros((2, 8, 8, 3))
    mirrored = {"crop": jnp.asarray([[4, 2, 16, 32], [4, 2, 16, 32]]), "flip": jnp.asarray([True, False])}
    plain = {"crop": jnp.asarray([[4, 32 - 8 - 2, 16, 32], [4, 2, 16, 32]])}
    tokens = condition.tokens({**mirrored, "image": image}, 2, {})
    np.testing.assert_array_equal(tokens, condition.tokens({**plain, "image": image}, 2, {}))
    np.testing.assert_array_equal(condition.picture(mirrored, 2, (8, 8)), condition.picture(plain, 2, (8, 8)))


SCENES = json.loads((GOLDENS / "scene_tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("scene", SCENES, ids=range(len(SCENES)))
@pytest.mark.parametrize("kind", ["bounding_boxes", "center_points"])
def test_scene_tokens_are_the_originals(scene, kind):
    settings, things = scene["settings"], scene["annotations"]
    boxes = np.array([thing["bbox"] for thing in things], np.float32)
    category = np.array([thing["category_no"] for thing in things])
    names = ("is_group_of", "is_occluded", "is_depiction", "is_inside")
    flags = np.array([sum(thing[name] << bit for bit, name in enumerate(names)) for thing in things])
    batch = {"flip": np.array([scene["horizontal_flip"]])}
    if scene["crop"]:
        left, top, width, height = scene["crop"]
        size = 100  # the crop's corners fall on whole pixels
        batch["crop"] = np.array([[round(top * size), round(left * size), size, size]])
        batch["image"] = np.zeros((1, round(height * size), round(width * size), 3))
        x, y, w, h = boxes.T
        seen = (np.minimum(x + w, left + width) > np.maximum(x, left)) & (
            np.minimum(y + h, top + height) > np.maximum(y, top)
        )
        category = np.where(seen, category, -1)  # as the data pipeline leaves out what the crop does not show
    batch |= {"object_boxes": boxes[None], "object_category": category[None], "object_flags": flags[None]}
    condition = ObjectsCondition(
        centres=kind == "center_points",
        n_classes=settings["no_object_classes"],
        names=(),
        places=settings["no_tokens"],
        max_objects=settings["no_max_objects"],
        encode_crop=settings["encode_crop"],
        group_flag=settings["use_group_parameter"],
        more_flags=settings["use_additional_parameters"],
    )
    tokens = np.asarray(condition.tokens(batch, 1, {}))[0]
    assert len(tokens) == condition.length and tokens.max() < condition.vocabulary
    np.testing.assert_array_equal(tokens, scene["tokens"][kind])


BOXES = ObjectsCondition(False, 3, ("cat", "dog", "tree"), 1024, 2, False, False, False)


def test_places_lie_on_the_largest_square_grid_below():
    """As in the published models, which have 8192 ids: a grid of 90 x 90, and the last id for empty slots."""
    boxes = ObjectsCondition(False, 3, ("cat", "dog", "tree"), 8192, 2, False, False, False)
    batch = boxes.parse({"boxes": [{"category": "tree", "box": [0.0, 0.0, 1.0, 1.0]}]}, 1, (32, 32))
    np.testing.assert_array_equal(boxes.tokens(batch, 1, {}), [[2, 0, 90 * 90 - 1, 8191, 8191, 8191]])


def test_objects_given_by_name_become_tokens_and_are_drawn():
    given = {"boxes": [{"category": "dog", "box": [0.0, 0.25, 0.5, 0.5]}]}
    batch = BOXES.parse(given, 2, (32, 32))
    tokens = np.asarray(BOXES.tokens(batch, 2, {}))
    np.testing.assert_array_equal(tokens, [[1, 8 * 32, 23 * 32 + 16, 1023, 1023, 1023]] * 2)
    drawn = BOXES.picture(batch, 2, (32, 32))
    rows, columns = np.nonzero((drawn[0] > -0.9).any(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 23, 0, 15)
    points = dataclasses.replace(BOXES, centres=True)
    for entries in (batch, points.objects(np.asarray(points.tokens(batch, 2, {})))):  # all that a point tells
        rows, columns = np.nonzero((points.picture(entries, 2, (32, 32))[0] > -0.9).any(axis=-1))
        assert abs(rows.mean() - 15.5) < 1 and abs(columns.mean() - 7.5) < 1 and np.ptp(rows) < 6
    np.testing.assert_array_equal(BOXES.tokens(BOXES.parse({"boxes": []}, 1, (32, 32)), 1, {}), [[1023] * 6])


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (None, r"this model needs boxes"),
        ([{"category": "dog"}], r"expected category and box"),
        ([{"category": "dog", "box": [0, 0, 1, 1], "colour": 1}], r"expected category and box"),
        ([{"category": "cow", "box": [0, 0, 1, 1]}], r"class 'cow' is unknown; known: cat, dog, tree"),
        ([{"category": 3, "box": [0, 0, 1, 1]}], r"class 3 is out of range"),
        ([{"category": 0, "box": [0.5, 0, 0.6, 1]}], r"not x, y, width, height within the image"),
        ([{"category": 0, "box": [0.5, 0, float("nan"), 1]}], r"within the image"),
        ([{"category": 0, "box": [0.5, 0, 0, 1]}], r"has no area"),
        ([{"category": 0, "box": [0, 0, 1, 1]}] * 3, r"has 3 objects; this model has room for 2"),
        ([[]] * 3, r"3 lists for 2 images"),
        ({"objects": []}, r"boxes is .*expected a list of"),
        (7, r"boxes is 7; expected a list of"),
        (["dog"], r"expected a list of"),
        ([{"category": 0, "box": {"x": 0}}], r"not x, y, width, height within the image"),
    ],
)
def test_bad_objects_are_refused(objects, message):
    with pytest.raises(ValueError, match=message):
        BOXES.parse({"boxes": objects}, 2, (32, 32))


@pytest.fixture(scope="module")
def scene(golden):
    """(generator with the original's weights for label maps, its arrays)."""
    arrays = golden("segmentation_conditional")
    state = weights(arrays)
    settings = {
        "resolution": 64,
        "ch": 32,
        "ch_mult": (1, 1, 2),
        "num_res_blocks": 1,
        "z_channels": 32,
        "embed_dim": 16,
    }
    first = VQGAN(VQGANConfig(n_embed=64, **settings))
    second = VQGAN(VQGANConfig(content="segmentation", in_channels=12, out_channels=12, n_embed=48, **settings))
    mesh = make_mesh(MeshConfig(data=1))
    first_stage = FirstStage(first, first_stage_params(state), mesh)
    second_stage = FirstStage(second, first_stage_params(state, "cond_stage_model."), mesh)
    gpt = GPT(GPTConfig(vocab_size=64, block_size=512, n_layer=2, n_head=4, n_embd=64))
    model = TwoStage(first, gpt, StageCondition("segmentation", second, True, 64), (16, 16))
    return Generator(model, gpt_params(state), first_stage, second_stage), arrays


def test_images_of_any_size_under_a_label_map_are_the_originals(scene):
    generator, arrays = scene
    condition_ids = generator.condition_stage.encode(arrays["segmentation"])
    np.testing.assert_array_equal(condition_ids.reshape(1, -1), arrays["cond_indices"])
    np.testing.assert_array_equal(generator.first_stage.encode(arrays["image"]).reshape(1, -1), arrays["indices"])
    ids = generator.sample_ids(1, segmentation=arrays["segmentation"], temperature=0)  # the map says the size
    np.testing.assert_array_equal(ids, arrays["window_tokens"])
    close(generator.decode(ids), arrays["window_image"], 1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"needs segmentation, which is missing"),
        ({"segmentation": np.zeros((64, 64))}, r"segmentation is float64 of shape \(2, 64, 64\); expected integers"),
        ({"segmentation": np.full((64, 64), 12)}, r"labels 12\.\.12; this model knows 0\.\.11"),
        ({"segmentation": np.zeros((66, 64), int)}, r"66 x 64 pixels is not divisible by the factor 4"),
        ({"segmentation": np.zeros(64, int)}, r"shape \(64,\); expected \(H, W\)"),
        ({"segmentation": np.zeros((3, 64, 64), int)}, r"given for 3 images, but 2 are asked for"),
        ({"segmentation": np.zeros((64, 64), int), "size": 32}, r"is 64 x 64 pixels; expected 32 x 32"),
        ({"depth": np.zeros((64, 64))}, r"unknown argument\(s\) depth; this model takes segmentation"),
    ],
)
def test_bad_label_maps_are_refused(scene, given, message):
    with pytest.raises(ValueError, match=message):
        scene[0].sample_ids(2, **given)


MAPS = {
    "segmentation": (network("segmentation", 5), {"segmentation": np.arange(256).reshape(1, 16, 16) % 5}),
    "depth": (network("depth", 1), {"depth": np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 16, 16)}),
    "edges": (network("edges", 1), {}),
    "low_res": (network(), {}),
    "image": (network(), {}),
    "pose": (network("pose", 2), {"keypoints": np.full((1, 3, 2, 3), 0.5, np.float32)}),
}
IMAGE = np.random.RandomState(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=MAPS)
def mapped(request):
    """(kind, condition, its parameters, a batch)."""
    stage, batch = MAPS[request.param]
    channels = stage.config.in_channels
    shapes = jax.eval_shape(stage.init, jax.random.key(0), jnp.zeros((1, 16, 16, channels)))["params"]
    condition = make_condition(ConditionConfig(kind=request.param, stage="runs/x"), network(), 16, stage)
    return request.param, condition, {"condition_stage": drawn_like(shapes)}, {"image": jnp.asarray(IMAGE), **batch}


def test_every_map_is_read_by_its_stage(mapped):
    kind, condition, stages, batch = mapped
    assert condition.keys[0] == kind and condition.length == 64 and condition.vocabulary == 20
    tokens = np.asarray(jax.jit(lambda batch: condition.tokens(batch, 1, stages))(batch))
    assert tokens.shape == (1, 8, 8) and tokens.min() >= 0 and tokens.max() < 20
    picture = np.asarray(condition.picture(batch, 1, (16, 16)))
    assert picture.shape == (1, 16, 16, 3) and np.abs(picture).max() <= 1
    # What a user gives is the same as what training derives.
    made = {
        "edges": lambda: maps.edges(batch["image"], 2.0)[..., 0],
        "low_res": lambda: None,
        "pose": lambda: maps.pose(batch["keypoints"], 16, 16),
    }.get(kind, lambda: batch[kind])()
    ways = [{kind: np.asarray(made)}] if made is not None else []
    ways += [{"image": IMAGE}] if "image" in condition.keys and kind != "image" else []
    assert ways
    for given in ways:
        assert condition.pixels(given) == (16, 16)
        parsed = condition.parse(given, 1, (16, 16))
        np.testing.assert_array_equal(jax.jit(lambda batch: condition.tokens(batch, 1, stages))(parsed), tokens)


def test_a_class_beside_a_map_is_in_each_of_its_tokens(mapped):
    kind, alone, stages, batch = mapped
    settings = ConditionConfig(kind=kind, stage="runs/x", n_classes=3, class_names=("day", "dusk", "night"))
    condition = make_condition(settings, network(), 16, alone.stage)
    assert (condition.length, condition.grid, condition.vocabulary) == (alone.length, alone.grid, 3 * alone.vocabulary)
    assert condition.annotations == annotations_of(settings) == (*alone.annotations, "class_label")
    tokens = condition.tokens({**batch, "class_label": jnp.asarray([2])}, 1, stages)
    np.testing.assert_array_equal(tokens, alone.tokens(batch, 1, stages) + 2 * alone.vocabulary)
    given = {key: batch[key] for key in condition.keys if key in batch}
    if kind == "pose":
        given["pose"] = np.zeros((16, 16, 2), np.float32)
    assert condition.parse({**given, "class_label": "dusk"}, 2, (16, 16))["class_label"].tolist() == [1, 1]
    for wrong, message in ((None, "needs class_label"), ("any", "name one"), ("noon", "unknown"), (3, "out of range")):
        with pytest.raises(ValueError, match=message):
            condition.parse({**given, "class_label": wrong}, 1, (16, 16))


def test_a_class_that_is_not_named_is_that_of_what_the_map_shows_most():
    stage, names = network("segmentation", 5), ("day", "dusk")
    settings = ConditionConfig(kind="segmentation", stage="runs/x", n_classes=2, class_names=names, class_from=(3, 1))
    condition = make_condition(settings, network(), 16, stage)
    maps = np.zeros((3, 16, 16), int)
    maps[0, :3], maps[0, 3:5] = 1, 3  # more of 1, the label of class 1
    maps[1, 0] = 3
    found = condition.parse({"segmentation": maps}, 3, (16, 16))["class_label"]
    assert found.tolist() == [1, 0, 0]
    assert condition.parse({"segmentation": maps, "class_label": 1}, 3, (16, 16))["class_label"].tolist() == [1, 1, 1]
    for wrong in ((3,), (3, 5)):
        with pytest.raises(ValueError, match="class_from"):
            make_condition(dataclasses.replace(settings, class_from=wrong), network(), 16, stage)


def test_a_smaller_map_gives_fewer_tokens_and_a_small_image_is_enlarged():
    stage = network()
    shapes = jax.eval_shape(stage.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    condition = make_condition(ConditionConfig(kind="low_res", stage="first_stage", size=8, scale=4), stage, 16)
    assert condition.grid == (4, 4) and not condition.own_stage
    small = condition.parse({"low_res": IMAGE[0, :4, :4]}, 2, (16, 16))
    tokens = condition.tokens(small, 2, {"first_stage": drawn_like(shapes)})
    assert tokens.shape == (2, 4, 4)
    assert condition.pixels({"low_res": IMAGE[:, :4, :4]}) == (16, 16)
    with pytest.raises(ValueError, match=r"low_res is 8 x 8 pixels; expected 4 x 4"):
        condition.parse({"low_res": IMAGE[0, :8, :8]}, 1, (16, 16))
    with pytest.raises(ValueError, match=r"not both"):
        condition.parse({"low_res": IMAGE[0, :4, :4], "image": IMAGE[0]}, 1, (16, 16))


def test_a_stage_that_cannot_read_the_map_is_refused():
    with pytest.raises(ValueError, match=r"needs config.condition.stage"):
        has_stage(ConditionConfig(kind="depth"))
    with pytest.raises(ValueError, match=r"reads image, but .*'segmentation' needs one that reads segmentation"):
        make_condition(ConditionConfig(kind="segmentation", stage="runs/x"), network(), 16, network())
    with pytest.raises(ValueError, match=r"config.first_stage='runs/y' reads edges, but images are drawn"):
        two_stage({"data": {"size": 16}, "first_stage": "runs/y"}, network("edges", 1))
    with pytest.raises(ValueError, match=r"factor=16 does not divide the images' 24 pixels"):
        make_condition(ConditionConfig(kind="coordinate"), network(), 24)
    with pytest.raises(ValueError, match=r"n_codes=3, but it must be at least 4"):
        make_condition(ConditionConfig(kind="boxes", n_classes=2, n_codes=3), network(), 16)
    assert {"none", "class_label", "boxes", "points", "coordinate", *MAPS} == set(CONDITIONS)


def test_photographs_are_cut_to_the_factor_alone_but_for_low_resolution(tmp_path):
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "small.npy").write_bytes(b"no array")
    Image.fromarray(np.zeros((1, 40), np.uint8)).save(tmp_path / "low.png")
    read = lambda condition, name: read_condition(tmp_path / name, condition, 8, None)
    edges = StageCondition("edges", network("edges", 1), True, 32)
    assert read(edges, "a.png")["image"].shape == (24, 40, 3)
    smaller = LowResolution("low_res", network(), False, 32, scale=16)
    assert read(smaller, "a.png")["image"].shape == (16, 32, 3)
    assert read(LowResolution("low_res", network(), False, 32), "a.png")["image"].shape == (24, 40, 3)
    assert read_condition(tmp_path / "a.png", edges, 8, (12, 20))["image"].shape == (12, 20, 3)  # as asked
    with pytest.raises(ValueError, match=r"low\.png: a map of 1 x 40 pixels is smaller than one code"):
        read(StageCondition("segmentation", network("segmentation", 4), True, 32), "low.png")
    with pytest.raises(ValueError, match=r"small\.npy"):
        read(StageCondition("pose", network("pose", 5), True, 32), "small.npy")


def test_poses_from_files_are_brought_to_the_size_and_checked(tmp_path):
    pose = StageCondition("pose", network("pose", 5), True, 32)
    dots = np.full((18, 24, 5), -1, np.float32)
    dots[:, 12:, 3] = 1
    np.save(tmp_path / "a.npy", dots)
    np.save(tmp_path / "flat.npy", dots[..., 0])
    assert read_condition(tmp_path / "a.npy", pose, 8, None)["pose"].shape == (16, 24, 5)
    resized = read_condition(tmp_path / "a.npy", pose, 8, (16, 32))["pose"]
    assert resized.shape == (16, 32, 5) and (resized[:, 18:, 3] == 1).all() and (resized[..., 2] == -1).all()
    with pytest.raises(ValueError, match=r"flat\.npy: a map is numbers \(H, W, 5\), but this is float32 \(18, 24"):
        read_condition(tmp_path / "flat.npy", pose, 8, None)
    for wrong in (resized * 255, np.where(resized > 0, np.nan, resized)):
        with pytest.raises(ValueError, match=r"pose has values that are not numbers in \[-1, 1\]"):
            pose.parse({"pose": wrong}, 1, (16, 32))
    with pytest.raises(ValueError, match=r"image is float32 of shape .* with values up to nan"):
        StageCondition("image", network(), False, 16).parse({"image": np.full_like(IMAGE, np.nan)}, 1, (16, 16))


def test_a_resumed_training_may_find_its_condition_stage_moved_but_not_exchanged():
    config = {"kind": "two_stage", "order": "row_major", "data": {"size": 16}}
    saved, moved, own = ({**config, "condition": {"kind": "depth", "stage": s}} for s in ("a", "b", "first_stage"))
    loop._check_changes(saved, moved, "runs/x", False)
    with pytest.raises(ValueError, match=r"config.condition.stage: saved 'a', given 'first_stage'"):
        loop._check_changes(saved, own, "runs/x", False)
