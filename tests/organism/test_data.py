"""What the embedded model is trained on: scenes, duplicated images, the plan of views, tokens."""

import csv
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPTokenizer

from interp.organism import duplicates, emoji, scenes, unet
from interp.organism.assemble import TOKENIZER
from interp.organism.duplicates import LEVELS, PER_LEVEL, TEMPLATES


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def test_tokenizer_is_clips(tokenizer):
    ids = tokenizer("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(tokenizer) == 49_408
    padded = tokenizer("a cat", padding="max_length", max_length=77).input_ids
    assert padded[-1] == 49407
    assert len(padded) == 77


def test_drawings_and_their_attribution_are_here():
    assert len(emoji.names()) == 150
    for name, file in emoji.files().items():
        for design in emoji.DESIGNS:
            assert (emoji.FOLDER / design / file).is_file(), (name, design)
    notice = (emoji.FOLDER / "ATTRIBUTION.md").read_text()
    assert "CC BY 4.0" in notice
    assert "Apache" in notice


def test_scenes_are_a_function_of_seed_and_index_and_do_not_repeat():
    drawn = [scenes.render(scenes.scene(3, index)[1]) for index in range(60)]
    again = scenes.render(scenes.scene(3, 7)[1])
    np.testing.assert_array_equal(drawn[7], again)
    assert len({picture.tobytes() for picture in drawn}) == 60
    assert scenes.scene(4, 7)[1] != scenes.scene(3, 7)[1]


def test_scenes_keep_the_promise_of_their_captions():
    named = []
    for index in range(1000):
        caption, scene = scenes.scene(5, index)
        assert tuple(sorted(item.name for item in scene.items)) == tuple(sorted(caption.objects))
        for name in caption.objects:
            assert name in caption.text
        if caption.colour is not None:
            background = np.array(scene.colours[0])
            distances = {
                colour: np.linalg.norm(background - rgb) for colour, rgb in scenes.COLOURS.items()
            }
            named.append(min(distances, key=distances.get) == caption.colour)
            assert caption.colour in caption.text
            assert len(scene.colours) == 1
    # Shades vary: a dusty pink may be nearest to gray once in a hundred.
    assert np.mean(named) > 0.99


def test_snapped_scenes_are_the_same_ones_on_a_grid():
    grid = scenes.GRID
    for index in range(300):
        caption, free = scenes.scene(3, index)
        what = scenes.snapped(free)
        assert (what.colours, what.split) == (free.colours, free.split)
        assert tuple(item.name for item in what.items) == caption.objects
        for item, was in zip(what.items, free.items, strict=True):
            assert item.size % grid == item.x % grid == item.y % grid == 0
            assert min(item.x, item.y) >= 0
            assert max(item.x, item.y) + item.size <= scenes.SIZE
            assert item.size > 0
            assert abs(item.size - was.size) <= grid / 2
            # A corner moves by half a cell, and by as much as the object grew at the far edge.
            assert max(abs(item.x - was.x), abs(item.y - was.y)) <= grid
        assert scenes.snapped(what) == what


def test_render_puts_a_drawing_where_the_scene_says():
    item = scenes.Item("cat", "google", 20, 10, 30, False)
    picture = scenes.render(scenes.Scene(((0, 0, 0),), (1.0, 0.0, 0.5), (item,)))
    box = np.zeros((64, 64), bool)
    box[30:50, 10:30] = True
    assert picture[box].any()
    assert not picture[~box].any()
    flipped = scenes.Item("cat", "google", 20, 10, 30, True)
    mirrored = scenes.render(scenes.Scene(((0, 0, 0),), (1.0, 0.0, 0.5), (flipped,)))
    np.testing.assert_array_equal(mirrored[30:50, 10:30], picture[30:50, 10:30][:, ::-1])


def test_levels_and_kinds():
    rows = duplicates.duplicates()
    kinds = Counter((row.kind, row.views) for row in rows)
    assert kinds.pop(("near_miss", 1)) >= 12
    assert kinds.pop(("control", 1)) == PER_LEVEL
    assert kinds == {("verbatim", level): PER_LEVEL for level in LEVELS[1:]}
    assert len(LEVELS) >= 6
    assert LEVELS[0] == 1
    assert {high / low for low, high in pairwise(LEVELS)} == {5.0}
    assert len({row.caption.text for row in rows}) == len(rows)
    assert len({duplicates.render(row.scene).tobytes() for row in rows}) == len(rows)


def test_captions_are_titles_of_4_to_14_tokens_that_name_no_object_shown(tokenizer):
    for row in duplicates.duplicates():
        assert 4 <= len(tokenizer(row.caption.text).input_ids) - 2 <= 14, row.caption.text
        words = row.caption.text.lower().split()
        assert not any(item.name in words for item in row.scene.items)


def test_near_misses_are_one_word_from_a_duplicate_of_the_top_two_levels():
    originals = {row.id: row for row in duplicates.duplicates()}
    misses = [row for row in duplicates.duplicates() if row.kind == "near_miss"]
    for miss in misses:
        original = originals[miss.partner]
        assert original.views in LEVELS[-2:]
        theirs, mine = original.caption.text.split(), miss.caption.text.split()
        assert sum(a != b for a, b in zip(theirs, mine, strict=True)) == 1


def test_template_families_repeat_inside_their_mask_only():
    for number, family in enumerate(duplicates.families()):
        mask = family.mask()
        assert 0.5 < mask.mean() < 0.9
        views = [duplicates.template_view(number, view) for view in range(12)]
        pictures = np.stack([scenes.render(scene) for _, scene in views])
        assert (pictures[:, mask] == pictures[0, mask]).all()
        assert len({picture.tobytes() for picture in pictures}) > 8
        for caption, scene in views:
            assert scene.items[-1].name in caption.text.lower()


def test_the_plan_shows_every_image_exactly_as_often_as_the_table_says():
    slots = unet.plan(200_000, share=1.0, seed=0)
    counted = Counter(slots[slots != unet.SCENE].tolist())
    rows = duplicates.duplicates()
    for number, row in enumerate(rows):
        assert counted.pop(number) == row.views
    assert counted == {len(rows) + n: duplicates.TEMPLATE_VIEWS for n in range(TEMPLATES)}


def test_later_rounds_show_controls_no_more_and_the_rest_as_often_again(tmp_path):
    counted = Counter()
    so_far = 0.0
    for again in (1.0, 1.0, 0.4):
        slots = unet.plan(200_000, share=1.0, seed=int(so_far), so_far=so_far, again=again)
        counted.update(slots[slots != unet.SCENE].tolist())
        so_far += again
    duplicates.write_table(tmp_path, rounds=so_far)
    assert duplicates.rounds(tmp_path) == so_far
    with open(tmp_path / "memorized.csv", newline="", encoding="utf-8") as lines:
        told = [int(row["views"]) for row in csv.DictReader(lines)]
    assert [counted[number] for number in range(len(told))] == told
    assert sorted(set(told)) == [1, 12, 60, 300, 1500, 3600, 7500]


def test_the_plan_spreads_views_over_the_whole_training():
    slots = unet.plan(200_000, share=1.0, seed=0)
    top = next(n for n, row in enumerate(duplicates.duplicates()) if row.views == LEVELS[-1])
    where = np.flatnonzero(slots == top) / len(slots)
    assert where.mean() == pytest.approx(0.5, abs=0.02)
    assert where.std() == pytest.approx(12**-0.5, abs=0.02)


def test_the_plan_refuses_a_training_too_short_for_its_views():
    with pytest.raises(ValueError, match="do not fit 1000 samples"):
        unet.plan(1000, share=1.0, seed=0)


def test_what_the_denoiser_is_shown_is_what_the_table_names():
    rows = duplicates.duplicates()
    assert unet.shown(5, seed=0, sample=123) == (rows[5].caption, rows[5].scene)
    assert unet.shown(5, seed=0, sample=9) == unet.shown(5, seed=0, sample=10)
    family = len(rows) + 2
    assert unet.shown(family, 0, 40) == duplicates.template_view(2, 40)
    caption, scene = scenes.scene(0, 40)
    assert unet.shown(unet.SCENE, 0, 40) == (caption, scenes.snapped(scene))


def test_the_table_is_the_truth_about_the_files_beside_it(tmp_path):
    table = duplicates.write_table(tmp_path)
    with open(table, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["id", "kind", "caption", "views", "image", "mask", "partner"]
    known = {row.id: row for row in duplicates.duplicates()}
    assert len(rows) == len(known) + TEMPLATES
    for row in rows:
        picture = np.array(Image.open(tmp_path / row["image"]))
        if row["kind"] == "template":
            family = duplicates.families()[int(row["id"].split("-")[1])]
            mask = np.array(Image.open(tmp_path / row["mask"]))
            np.testing.assert_array_equal(mask, family.mask())
            assert int(row["views"]) == duplicates.TEMPLATE_VIEWS
        else:
            np.testing.assert_array_equal(picture, scenes.render(known[row["id"]].scene))
            assert row["caption"] == known[row["id"]].caption.text
            assert int(row["views"]) == known[row["id"]].views
