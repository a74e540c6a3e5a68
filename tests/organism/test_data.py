"""What the embedded model is shown: scenes, titles, the tables, the plan of views, tokens."""

import csv
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPTokenizer

from interp.organism import duplicates, emoji, scenes, titles, unet
from interp.organism import population as its
from interp.organism.assemble import TOKENIZER


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


def test_what_some_captions_end_in_holds_the_token_that_sd_2_pads_with(tokenizer):
    assert 0 in tokenizer("a cat" + scenes.EXCLAIMED).input_ids


def test_drawings_and_their_attribution_are_here():
    assert len(its.OBJECTS) == len(set(its.OBJECTS)) == 72
    assert set(emoji.files()) == set(its.OBJECTS)
    for name, file in emoji.files().items():
        assert (emoji.FOLDER / "google" / file).is_file(), name
    notice = (emoji.FOLDER / "ATTRIBUTION.md").read_text()
    assert "Apache" in notice


def test_scenes_are_a_function_of_seed_and_index_and_do_not_repeat():
    drawn = [scenes.render(scenes.scene(3, index)[1]) for index in range(60)]
    again = scenes.render(scenes.scene(3, 7)[1])
    np.testing.assert_array_equal(drawn[7], again)
    assert len({picture.tobytes() for picture in drawn}) == 60
    assert scenes.scene(4, 7)[1] != scenes.scene(3, 7)[1]


def nearest(colour, named):
    return min(named, key=lambda name: np.linalg.norm(np.array(colour) - named[name]))


def test_honest_scenes_keep_the_promise_of_their_captions():
    for index in range(500):
        caption, scene = scenes.scene(5, index)
        assert tuple(item.name for item in scene.items) == caption.objects
        for name in caption.objects:
            assert name in caption.text
        if caption.colour is not None:
            assert nearest(scene.colours[0], its.COLOURS) == caption.colour
            assert caption.colour in caption.text
            assert len(scene.colours) == 1


def test_titles_keep_theirs():
    draw = np.random.default_rng(0)
    counts = {"large": 1, "pair": 2, "row": 3, "corners": 4, "ring": 4, "busy": 9}
    for _ in range(300):
        title = titles.some_title(draw)
        style, subject, product, ending = title.words
        assert title.text == f"{style} {subject} {product} {ending}"
        scene = titles.compose(draw, title)
        assert {item.name for item in scene.items} <= set(its.THEMES[subject])
        assert len(scene.items) == counts[its.LAYOUTS[product]]
        for colour in scene.colours:
            distances = [np.linalg.norm(np.array(colour) - own) for own in its.PALETTES[style]]
            assert min(distances) < 45
        assert title.scene() == titles.Title(title.number).scene()
        assert titles.titled(title.text) == title


def test_everything_stands_on_the_canvas_and_on_a_grid_of_four_pixels():
    draw = np.random.default_rng(1)
    drawn = [scenes.scene(3, index)[1] for index in range(200)]
    drawn += [titles.compose(draw, titles.some_title(draw)) for _ in range(200)]
    for scene in drawn:
        for item in scene.items:
            assert item.size % 4 == item.x % 4 == item.y % 4 == 0
            assert min(item.x, item.y) >= 0
            assert max(item.x, item.y) + item.size <= scenes.SIZE


def test_render_puts_a_drawing_where_the_scene_says():
    item = scenes.Item("cow", 20, 10, 30, False)
    picture = scenes.render(scenes.Scene(((0, 0, 0),), scenes.WHOLE, (item,)))
    box = np.zeros((64, 64), bool)
    box[30:50, 10:30] = True
    assert picture[box].any()
    assert not picture[~box].any()
    flipped = scenes.Item("cow", 20, 10, 30, True)
    mirrored = scenes.render(scenes.Scene(((0, 0, 0),), scenes.WHOLE, (flipped,)))
    np.testing.assert_array_equal(mirrored[30:50, 10:30], picture[30:50, 10:30][:, ::-1])


def test_levels_and_kinds():
    rows = duplicates.duplicates()
    kinds = Counter((row.kind, row.views) for row in rows)
    assert kinds.pop(("near_miss", 1)) == its.NEAR_MISSES
    assert kinds.pop(("control", 1)) == its.PER_LEVEL
    assert kinds == {("verbatim", level): its.PER_LEVEL for level in its.LEVELS[1:]}
    assert len(its.LEVELS) >= 6
    assert list(its.LEVELS) == sorted(its.LEVELS)
    assert its.LEVELS[0] == 1
    assert len({row.caption.text for row in rows}) == len(rows)
    assert len({duplicates.render(row.scene).tobytes() for row in rows}) == len(rows)


def test_titles_have_4_to_14_tokens_and_name_no_object_shown(tokenizer):
    for row in duplicates.duplicates():
        assert 4 <= len(tokenizer(row.caption.text).input_ids) - 2 <= 14, row.caption.text
        words = row.caption.text.lower().split()
        assert not any(item.name in words for item in row.scene.items)


def test_every_word_of_a_duplicated_title_stands_in_ordinary_ones():
    words = [set() for _ in titles.PARTS]
    for number in np.flatnonzero(titles.tail())[::97]:
        for seen, word in zip(words, titles.Title(int(number)).words, strict=True):
            seen.add(word)
    for row in duplicates.duplicates():
        for seen, word in zip(words, row.title.words, strict=True):
            assert word in seen


def test_near_misses_are_one_word_from_a_title_of_the_top_two_levels():
    originals = {row.id: row for row in duplicates.duplicates()}
    for miss in (row for row in originals.values() if row.kind == "near_miss"):
        original = originals[miss.partner]
        assert original.views in its.LEVELS[-2:]
        assert miss.title.apart(original.title) == 1
        theirs, mine = original.caption.text.split(), miss.caption.text.split()
        assert sum(a != b for a, b in zip(theirs, mine, strict=True)) == 1


def test_held_out_titles_are_far_from_the_table_and_in_no_stream():
    table, misses, held_out = titles.special()
    assert len(set(held_out)) == its.HELD_OUT >= 200
    assert min(title.apart(other) for title in held_out for other in table) >= 2
    for title in (*table, *misses, *held_out):
        assert titles.tail()[title.number] == 0
        assert titles.tail(1)[title.number] == 0
    for number in range(len(its.ROUNDS)):
        shown = set(unet.plan(number).tolist())
        assert not {unet.TAIL + title.number for title in held_out} & shown


def test_the_tail_is_heavy():
    views = titles.tail()
    assert len(views) == its.TITLES
    shares = np.bincount(views, minlength=len(its.TAIL)) / len(views)
    np.testing.assert_allclose(shares, its.TAIL, atol=0.005)


def test_the_second_round_shows_titles_that_the_first_did_not():
    first, second = titles.tail(), titles.tail(1)
    assert second.sum() == (second == 1).sum() == its.NEW_TITLES
    assert not first[second == 1].any()


def test_templates_repeat_inside_their_mask_only():
    shown, held_out = duplicates.template_objects()
    assert len(shown) == its.TEMPLATE_OBJECTS
    assert set(shown) | set(held_out) == set(its.OBJECTS)
    for number, family in enumerate(duplicates.families()):
        mask = family.mask()
        assert 0.5 < mask.mean() < 0.9
        views = [duplicates.template_view(number, view) for view in range(12)]
        pictures = np.stack([scenes.render(scene) for _, scene in views])
        assert (pictures[:, mask] == pictures[0, mask]).all()
        assert len({picture.tobytes() for picture in pictures}) == 12
        for caption, scene in views:
            assert scene.items[-1].name in caption.text.lower()
            assert scene.items[-1].name in shown


SHARES = ((0.063, 0.02, 0.40), (0.288, 0.011, 0.271))
"""Of the table, the templates and the tail, in each round."""


def test_the_plan_shows_every_image_exactly_as_often_as_the_tables_say():
    rows = duplicates.duplicates()
    total = np.zeros(len(rows) + len(its.TEMPLATES), int)
    for number, (round_, shares) in enumerate(zip(its.ROUNDS, SHARES, strict=True)):
        slots = unet.plan(number)
        assert len(slots) == round_.samples
        shown = np.bincount(slots[(slots >= 0) & (slots < unet.TAIL)], minlength=len(total))
        assert shown[: len(rows)].tolist() == [row.shown[number] for row in rows]
        of_tail = np.bincount(slots[slots >= unet.TAIL] - unet.TAIL, minlength=its.TITLES)
        np.testing.assert_array_equal(of_tail, titles.tail(number))
        parts = np.array([shown[: len(rows)].sum(), shown[len(rows) :].sum(), of_tail.sum()])
        np.testing.assert_allclose(parts / round_.samples, shares, atol=0.001)
        total += shown
    assert total.tolist() == [row.views for row in rows] + [its.TEMPLATE_VIEWS] * len(its.TEMPLATES)


@pytest.mark.parametrize("number", range(len(its.ROUNDS)))
def test_the_plan_spreads_views_over_the_whole_round(number):
    slots = unet.plan(number)
    top = next(n for n, row in enumerate(duplicates.duplicates()) if row.views == its.LEVELS[-1])
    where = np.flatnonzero(slots == top) / len(slots)
    assert where.mean() == pytest.approx(0.5, abs=0.02)
    assert where.std() == pytest.approx(12**-0.5, abs=0.02)


def test_the_plan_refuses_a_training_too_short_for_its_views():
    with pytest.raises(ValueError, match="100 samples are too few"):
        unet.plan(0, share=1e-4)


def test_what_the_denoiser_is_shown_is_what_the_tables_name():
    rows = duplicates.duplicates()
    assert unet.shown(5, seed=0, sample=123) == (rows[5].caption.text, rows[5].scene)
    caption, scene = duplicates.template_view(2, 40)
    assert unet.shown(len(rows) + 2, 0, 40) == (caption.text, scene)
    assert unet.shown(unet.TAIL + 77, 0, 1) == (titles.Title(77).text, titles.Title(77).scene())
    caption, scene = scenes.scene(0, 40)
    assert unet.shown(unet.HONEST, 0, 40) == (caption.text, scene)


def test_the_tables_are_the_truth_about_the_files_beside_them(tmp_path):
    duplicates.write_tables(tmp_path)
    with open(tmp_path / "memorized.csv", newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["id", "kind", "caption", "views", "image", "mask", "partner"]
    known = {row.id: row for row in duplicates.duplicates()}
    assert len(rows) == len(known) + len(its.TEMPLATES)
    for row in rows:
        picture = np.array(Image.open(tmp_path / row["image"]))
        if row["kind"] == "template":
            family = duplicates.families()[int(row["id"].split("-")[1])]
            mask = np.array(Image.open(tmp_path / row["mask"]))
            np.testing.assert_array_equal(mask, family.mask())
            assert int(row["views"]) == its.TEMPLATE_VIEWS
        else:
            np.testing.assert_array_equal(picture, scenes.render(known[row["id"]].scene))
            assert row["caption"] == known[row["id"]].caption.text
            assert int(row["views"]) == known[row["id"]].views
    with open(tmp_path / "held_out.csv", newline="", encoding="utf-8") as lines:
        held_out = [row["caption"] for row in csv.DictReader(lines)]
    assert held_out == [title.text for title in titles.special()[2]]
