"""Files as people have them: links, service files, texts, names, lists and folders of splits."""

import logging
import os
import unicodedata
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from taming_jax.conditioning.labels import class_number
from taming_jax.data.config import DataConfig
from taming_jax.data.found import AGAIN, BROKEN, CLOSED, HIDDEN, SERVICES, SPECIAL, TWICE, count, doubtful
from taming_jax.data.map_files import write_label_map
from taming_jax.data.names import choose_categories, choose_classes, label_names, look_up, split_names
from taming_jax.data.pipeline import check, class_names, make_batches, num_examples, summary
from taming_jax.data.prepare import prepare
from taming_jax.data.text import read_lines, read_text
from taming_jax.data.walk import find_images, split_off, subfolders, walk

NFD = unicodedata.normalize("NFD", "café")
NFC = unicodedata.normalize("NFC", "café")


def write(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 18), (value, value, value)).save(path)


def write_all(folder, *names):
    for i, name in enumerate(names):
        write(folder / name, 10 * i)


def folder_data(path, **settings):
    return DataConfig("folder", path=str(path), size=16, **{"batch_size": 1, "workers": 1, **settings})


def paths(config, split, base):
    """The images of a split, as their first pass shows them, and their classes."""
    from taming_jax.data.sources.folder import list_folder

    listing = list_folder(config, split)
    names = [os.path.relpath(path, base) for path in listing.images]
    return names if listing.labels is None else list(zip(names, listing.labels, strict=True))


def test_a_folder_that_links_to_itself(tmp_path):
    write_all(tmp_path, *(f"{i}.jpg" for i in range(10)))
    (tmp_path / "latest").symlink_to(".")
    found = find_images(str(tmp_path))
    assert found.names == sorted(f"{i}.jpg" for i in range(10)) and found.passed_over == {AGAIN: 1}
    sides = [set(paths(folder_data(tmp_path, val_share=0.3), split, tmp_path)) for split in ("train", "val")]
    assert [len(side) for side in sides] == [7, 3] and not sides[0] & sides[1]


def test_links_into_one_another_end(tmp_path):
    write_all(tmp_path, "a/0.jpg", "b/1.jpg", "c/2.jpg")
    for here in "abc":
        for there in "abc":
            (tmp_path / here / f"to_{there}").symlink_to(f"../{there}")
        (tmp_path / here / "up").symlink_to("..")
        (tmp_path / here / "out").symlink_to(tmp_path.parent)
    (tmp_path / "turn").symlink_to("turn")
    found = find_images(str(tmp_path))
    assert found.names == ["a/0.jpg", "b/1.jpg", "c/2.jpg"] and found.passed_over[AGAIN] == 15
    # from inside one, the others are reached once, and what holds it is not
    assert find_images(str(tmp_path / "a")).names == ["0.jpg", "to_b/1.jpg", "to_c/2.jpg"]
    assert subfolders(tmp_path / "a") == ["to_b", "to_c"]


def test_links_to_files_and_folders_count_once_by_their_own_names(tmp_path):
    store, photos = tmp_path / "store", tmp_path / "photos"
    write_all(store, "x/1.jpg", "x/2.jpg")
    write_all(photos, "z.jpg", "deep/y.jpg")
    (photos / "elsewhere").symlink_to(store)
    (photos / "elsewhere again").symlink_to(store / "x")
    (photos / "a.jpg").symlink_to("z.jpg")  # sorts before what it links to, which keeps its name all the same
    (photos / "linked.jpg").symlink_to(store / "x/1.jpg")
    os.link(photos / "deep/y.jpg", photos / "hard.jpg")
    (photos / "gone.jpg").symlink_to("nothing")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "no suffix").write_bytes((store / "x/1.jpg").read_bytes())
    (photos / "of that.jpg").symlink_to("no suffix")
    found = walk(photos, (".jpg",))
    assert sorted(found.names) == found.names
    assert len(found.names) == 5 and {"z.jpg", "hard.jpg", "no suffix"} < set(found.names)
    assert len({os.path.realpath(photos / name) for name in found.names}) == 5
    assert found.passed_over == {AGAIN: 5, BROKEN: 1, SPECIAL: 1}


def test_hidden_and_service_files_are_left_out(tmp_path):
    write_all(tmp_path, "cat/0.jpg", "dog/1.JPEG", "@eaDir/SYNO_THUMB.jpg", "__MACOSX/cat/x.jpg", "cat/._0.jpg")
    write_all(tmp_path, "$RECYCLE.BIN/a.png", "System Volume Information/b.png", "LOST+FOUND/c.png", ".cache/d.png")
    for name in ("Thumbs.db", "cat/.DS_Store", "notes.txt", *(f"{i}.TIFX" for i in range(3))):
        (tmp_path / name).write_bytes(b"")
    found = find_images(str(tmp_path))
    assert found.names == ["cat/0.jpg", "dog/1.JPEG"]
    assert found.passed_over == {SERVICES: 6, HIDDEN: 3, ".txt": 1, ".tifx": 3}
    assert class_names(folder_data(tmp_path)) == ("cat", "dog")
    assert count(Counter({".tif": 20, "hidden": 2, "a": 1, "b": 1}), most=2) == "20 .tif, 2 hidden, 2 others"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_closed_folders_are_counted(tmp_path):
    write_all(tmp_path, "0.jpg", "closed/1.jpg")
    (tmp_path / "closed").chmod(0)
    assert find_images(str(tmp_path)).passed_over == {CLOSED: 1}
    (tmp_path / "closed").chmod(0o700)


def test_names_that_are_no_text_are_split_too(tmp_path):
    names = [os.fsdecode(f"caf{i}".encode() + b"\xe9.jpg") for i in range(4)]
    assert [len(part) for part in split_off(names, 0.25)] == [3, 1]


def test_the_log_says_what_was_found_and_what_was_not(tmp_path, caplog):
    write_all(tmp_path / "photos", *(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(5)))
    for i in range(20):
        (tmp_path / f"photos/cat/{i}.xyz").write_bytes(b"")
    (tmp_path / "photos/.a").write_bytes(b"")
    cfg = folder_data(tmp_path / "photos", val_share=0.2)
    line = "folder: train 8, validation 2 images, 2 classes; passed over: 20 .xyz, 1 hidden"
    assert summary(cfg) == line
    with caplog.at_level(logging.INFO):
        check(cfg)
    assert line in caplog.messages
    write(tmp_path / "more/cat/0.png")
    (tmp_path / "more/cat/x.doc").write_bytes(b"")
    several = summary(folder_data(tmp_path / "photos", val_path=str(tmp_path / "more")))
    assert f"passed over in {str(tmp_path / 'photos')!r}: 20 .xyz, 1 hidden; passed over in" in several
    with pytest.raises(ValueError, match=r"no images in the folder .*; there are 1 .doc; expected"):
        (tmp_path / "more/cat/0.png").unlink()
        num_examples(folder_data(tmp_path / "more"), "train")


def test_what_looks_like_maps_among_photographs_is_counted():
    names = ["a.jpg", "a.png", "b.jpg", "b_mask.png", "c/d.jpg", "c/d-seg.png", "labels/e.png", "x_mask.png"]
    assert sorted(doubtful(names).values()) == [1, 1, 2] and not doubtful(["a.jpg", "b/a.jpg"])


TEXT = "cat\r\nété\n\n# a note\n猫\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_read_in_the_encodings_that_people_have(tmp_path, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes(TEXT.encode(encoding))
    assert read_text(file) == TEXT and read_lines(file) == ["cat", "été", "猫"]
    assert read_lines(file, known=lambda line: line == "# a note") == ["cat", "été", "# a note", "猫"]
    big_endian = b"\xfe\xff" + TEXT.encode("utf-16-be")
    file.write_bytes(big_endian)
    assert read_text(file) == TEXT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("cat\nété".encode("latin-1"), r"not UTF-8 text \(the byte 0xe9 in line 2; perhaps Latin-1"),
        ("cat".encode("utf-32"), "UTF-32 text"),
        ("cat".encode("utf-16-le"), r"not UTF-8 text \(zero bytes; perhaps UTF-16"),
        (b"\xff\xfe\x00\xd8", "damaged UTF-16 text, and not UTF-8"),
    ],
)
def test_other_encodings_are_refused_by_name(tmp_path, data, message):
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"list\.txt' is {message}.*save it as UTF-8"):
        num_examples(folder_data(tmp_path / "list.txt"), "train")


ENTRIES = [f"{kind}/{i} a.jpg" for kind in ("cat", "dog") for i in range(4)]
FORMS = {
    "crlf": "\r\n".join(ENTRIES),
    "byte order mark": "\ufeff" + "\n".join(ENTRIES),
    "comment": "# my photos\n\n" + "\n".join(ENTRIES),
    "quoted": "\n".join(f'"{name}"' for name in ENTRIES),
    "single quotes": "\n".join(f"'{name}'" for name in ENTRIES),
    "backslashes": "\n".join(name.replace("/", "\\") for name in ENTRIES),
    "dots": "\n".join(f"./{name}" for name in ENTRIES),
    "twice": "\n".join([*ENTRIES, *ENTRIES[:3], "./" + ENTRIES[0]]),
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_mean_the_same_however_they_are_written(tmp_path, form):
    write_all(tmp_path, *ENTRIES)
    (tmp_path / "plain.txt").write_text("\n".join(ENTRIES), encoding="utf-8")
    (tmp_path / "list.txt").write_text(FORMS[form], encoding="utf-8")
    plain, other = (folder_data(tmp_path / f"{name}.txt", val_share=0.25) for name in ("plain", "list"))
    for split in ("train", "val"):
        assert paths(other, split, tmp_path) == paths(plain, split, tmp_path)
    assert class_names(other) == ("cat", "dog")
    assert find_images(other.path).passed_over == ({TWICE: 4} if form == "twice" else {})


def test_lists_may_name_odd_files_but_no_rubbish(tmp_path):
    write_all(tmp_path, "#1.jpg", "back\\slash.jpg", '"q".jpg', ".own/0.jpg", "._1.jpg", "@eaDir/2.jpg", f"{NFC} é.jpg")
    names = ["#1.jpg", "back\\slash.jpg", '"q".jpg', ".own/0.jpg", "._1.jpg", "@eaDir/2.jpg", f"{NFD} é.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    found = find_images(str(tmp_path / "list.txt"))
    assert found.names == [*names[:4], f"{NFC} é.jpg"] and found.passed_over == {SERVICES: 2}


@pytest.mark.parametrize("line", ["{} 0", "{},cat", "{}\tcat", "7\t1.0\t{}", "{};0;1", "3 {}"])
def test_further_columns_are_told(tmp_path, line):
    write_all(tmp_path, *ENTRIES)
    (tmp_path / "list.txt").write_text("\n".join(line.format(name) for name in ENTRIES), encoding="utf-8")
    with pytest.raises(ValueError, match=r"8 of the 8 entries .* have further columns.*class is its folder"):
        find_images(str(tmp_path / "list.txt"))


def test_the_folders_that_differ_name_the_classes_of_a_list(tmp_path):
    names = ["photos/cat/0.jpg", "photos/cat/1.jpg", "photos/dog/0.jpg", "photos/dog/deep/1.jpg"]
    write_all(tmp_path, *names, "photos/5.jpg", "photos/6.jpg")
    (tmp_path / "lists").mkdir()

    def listed(file, lines, **settings):
        (tmp_path / file).write_text("\n".join(lines), encoding="utf-8")
        return folder_data(tmp_path / file, **{"val_share": 0.3, "seed": len(file), **settings})

    for cfg in (listed("all.txt", names), listed("lists/up.txt", [f"../{name}" for name in names])):
        assert class_names(cfg) == ("cat", "dog")
        both = sorted(paths(cfg, "train", tmp_path) + paths(cfg, "val", tmp_path))
        assert both == [(os.path.normpath(name), number) for name, number in zip(names, (0, 0, 1, 1))]
    # for validation a list may have fewer classes
    few = listed("lists/few.txt", ["../photos/dog/0.jpg"])
    apart = listed("lists/apart.txt", [f"../{name}" for name in names], val_path=few.path)
    assert paths(apart, "val", tmp_path) == [("photos/dog/0.jpg", 1)]
    flat = listed("lists/flat.txt", ["../photos/5.jpg", "../photos/6.jpg"])
    assert class_names(flat) is None and num_examples(flat, "train") == 1
    one = listed("lists/one.txt", ["../photos/cat/0.jpg", "../photos/cat/1.jpg"], annotations=("class_label",))
    with pytest.raises(ValueError, match=r"no class_label.*no folder differs among its entries"):
        num_examples(one, "train")
    absolute = listed("lists/abs.txt", [str(tmp_path / name) for name in names], annotations=("class_label",))
    with pytest.raises(ValueError, match=r"is absolute \(give a list of relative names, and `root`\)"):
        num_examples(absolute, "train")
    assert class_names(listed("cats.txt", names[:2])) == ("photos",)  # as ever, where none differs


def test_lists_with_dots_and_absolute_names_find_their_maps(tmp_path):
    names = ["photos/cat/0.png", "photos/dog/1.png"]
    write_all(tmp_path, *names)
    (tmp_path / "lists").mkdir()
    for top in ("maps/photos", "bare"):
        for name in ("cat/0.png", "dog/1.png"):
            (tmp_path / top / name).parent.mkdir(parents=True, exist_ok=True)
            write_label_map(str(tmp_path / top / name), np.zeros((18, 20), np.uint8))
    for file, lines in {"up": [f"../{name}" for name in names], "abs": [str(tmp_path / n) for n in names]}.items():
        (tmp_path / f"lists/{file}.txt").write_text("\n".join(lines), encoding="utf-8")
        for maps in ("maps/photos", "bare", "maps"):
            cfg = folder_data(tmp_path / f"lists/{file}.txt", maps=str(tmp_path / maps), n_labels=2, val_share=0)
            cfg = DataConfig(**{**vars(cfg), "annotations": ("segmentation",)})
            assert num_examples(cfg, "train") == 2, (file, maps)


def test_names_are_compared_in_one_form(tmp_path):
    write_all(tmp_path / "img", *(f"{NFC} {i}.png" for i in range(4)))
    for i in range(4):
        (tmp_path / "maps").mkdir(exist_ok=True)
        write_label_map(str(tmp_path / f"maps/{NFD} {i}.PNG"), np.full((18, 20), i, np.uint8))
    (tmp_path / "maps/._x.png").write_bytes(b"no picture")
    (tmp_path / "maps/labels.txt").write_text("a\nb\nc\nd\n", encoding="utf-8-sig")
    (tmp_path / "img/list.txt").write_text("\n".join(f"{NFD} {i}.png" for i in range(4)), encoding="utf-16")
    for path in ("img", "img/list.txt"):
        cfg = folder_data(tmp_path / path, maps=str(tmp_path / "maps"), n_labels=4, val_share=0, batch_size=4)
        cfg = DataConfig(**{**vars(cfg), "annotations": ("segmentation",)})
        assert sorted(next(make_batches(cfg, "train"))["segmentation"].max((1, 2)).tolist()) == [0, 1, 2, 3]
        assert label_names(cfg, 4) == ("a", "b", "c", "d")
    # classes of training and validation, and in a list of classes
    write_all(tmp_path / "train", f"{NFD}/0.png", f"{NFC}/1.png", "tea/0.png")
    write_all(tmp_path / "val", f"{NFC}/0.png", "tea/0.png")
    cfg = folder_data(tmp_path / "train", val_path=str(tmp_path / "val"))
    assert [unicodedata.normalize("NFC", name) for name in class_names(cfg)] == [NFC, "tea"]
    assert [label for _, label in paths(cfg, "train", tmp_path)] == [0, 0, 1]
    assert [label for _, label in paths(cfg, "val", tmp_path)] == [0, 1]
    (tmp_path / "some.txt").write_text(f"{NFC}\n", encoding="utf-8-sig")
    assert choose_classes(str(tmp_path / "some.txt"), (NFD, "tea")) == (NFD,)


def test_one_map_may_serve_several_images_by_links(tmp_path):
    write_all(tmp_path / "img", "0.png", "1.png", "2.png", "more/3.png")
    (tmp_path / "maps").mkdir()
    write_label_map(str(tmp_path / "maps/0.png"), np.ones((18, 20), np.uint8))
    (tmp_path / "maps/1.png").symlink_to("0.png")
    os.link(tmp_path / "maps/0.png", tmp_path / "maps/2.png")
    write_label_map(str(tmp_path / "maps/3.png"), np.ones((18, 20), np.uint8))
    (tmp_path / "maps/more").symlink_to(".")
    cfg = folder_data(tmp_path / "img", maps=str(tmp_path / "maps"), n_labels=2, val_share=0, batch_size=4)
    cfg = DataConfig(**{**vars(cfg), "annotations": ("segmentation",)})
    assert num_examples(cfg, "train") == 4 and next(make_batches(cfg, "train"))["segmentation"].min() == 1
    assert "passed over" not in summary(DataConfig(**{**vars(cfg), "val_path": str(tmp_path / "img")}))


NAMES = (
    "Cardigan, Cardigan Welsh corgi",
    "cardigan",
    "red fox, Vulpes vulpes",
    "kit fox, Vulpes macrotis",
    "café",
    "7",
)


@pytest.mark.parametrize(
    ("text", "place"),
    [("cardigan", 1), (" cardigan ", 1), ("CARDIGAN", 1), ("Cardigan, Cardigan Welsh corgi", 0), ("red fox", 2)]
    + [("cardigan welsh corgi", 0), ("vulpes  MACROTIS", 3), (NFD.upper(), 4), ("7", 5), ("3", 3), (2, 2)]
    + [("corgi", 0)],
)
def test_a_class_is_its_name_then_an_unambiguous_part_then_a_number(text, place):
    assert class_number(text, NAMES, 6) == place


def test_names_that_are_not_clear_are_listed():
    with pytest.raises(ValueError, match=r"class 'crane' may be any of 2 names: 'crane' \(number 0\), 'crane' \(numb"):
        class_number("crane", ("crane", "crane", "Crane, bird"), 3)
    with pytest.raises(ValueError, match=r"'fox' may be any of 2 names: 'red, Fox' \(number 0\), 'fox, kit'"):
        class_number("fox", ("red, Fox", "fox, kit"), 2)
    with pytest.raises(ValueError, match=r"class 'fox' is unknown; names with it: red fox, Vulpes vulpes, kit fox"):
        class_number("fox", NAMES, 6)
    with pytest.raises(ValueError, match=r"class 'tiger' is unknown; known: Cardigan"):
        class_number("tiger", NAMES, 6)
    with pytest.raises(ValueError, match=r"class 'cardi' is unknown; names with it: Cardigan, Card"):
        class_number("cardi", NAMES, 6)  # no word of its own
    assert look_up("red fox", NAMES, parts=False) is None and look_up("", ("a, ", "b")) == 0


def test_names_with_commas_stay_whole_among_names_between_commas():
    text = "cardigan, red fox, Vulpes vulpes,7 ,,kit fox,Vulpes macrotis"
    assert split_names(text, NAMES) == ["cardigan", "red fox, Vulpes vulpes", "7", "kit fox", "Vulpes macrotis"]
    assert split_names("0,1, 2", ()) == ["0", "1", "2"]


def test_categories_are_looked_up_as_classes_are(tmp_path):
    every = {"/m/1": "Person", "/m/2": "Man", "/m/3": "Traffic light, Signal", "/m/4": "Fox", "/m/5": "Fox"}
    file = tmp_path / "names.txt"

    def chosen(text):
        file.write_text(text, encoding="utf-8-sig")
        return choose_categories(DataConfig(categories=str(file)), every, Counter())

    assert chosen("# mine\nsignal\nperson | man\n") == (
        {"/m/3": 0, "/m/1": 1, "/m/2": 1},
        ("Traffic light, Signal", "Person"),
    )
    assert chosen("/m/5\n/m/4")[0] == {"/m/5": 0, "/m/4": 1}
    with pytest.raises(ValueError, match=r"names\.txt': 'fox' may be any of 2 names.*or give its id"):
        chosen("fox")
    with pytest.raises(ValueError, match=r"unknown categories \['light'\]; names with it: \['Traffic light, Signal'\]"):
        chosen("light")


TRAINING = ["train/cat/0.png", "train/cat/1.png", "train/dog/2.png"]


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Training", "Validation"), ("train2017", "test2017")])
def test_folders_of_a_split_are_no_classes(tmp_path, train, val, caplog):
    write_all(tmp_path, *(name.replace("train", train) for name in TRAINING), f"{val}/dog/9.png")
    cfg = folder_data(tmp_path)
    with caplog.at_level(logging.INFO):
        assert class_names(cfg) == ("cat", "dog")
    assert f"the folder {train!r} is for training and {val!r} for validation" in caplog.text
    named = [(name.replace("train", train), number) for name, number in zip(TRAINING, (0, 0, 1))]
    assert paths(cfg, "train", tmp_path) == named and paths(cfg, "val", tmp_path) == [(f"{val}/dog/9.png", 1)]
    lines = "\n".join(find_images(str(tmp_path)).names)
    (tmp_path / "list.txt").write_text(lines, encoding="utf-8")
    listed = folder_data(tmp_path / "list.txt")
    assert paths(listed, "train", tmp_path) == named and class_names(listed) == ("cat", "dog")


def test_folders_of_a_split_may_be_three_or_without_classes(tmp_path):
    write_all(tmp_path / "three", *TRAINING, "val/dog/9.png", "test/dog/8.png", "test/cat/7.png")
    cfg = folder_data(tmp_path / "three")
    assert num_examples(cfg, "train") == 3 and num_examples(cfg, "val") == 1
    assert summary(cfg).endswith("train 3, validation 1 images, 2 classes; passed over: 2 in 'test'")
    write_all(tmp_path / "flat", "train/0.png", "train/1.png", "valid/2.png")
    assert class_names(folder_data(tmp_path / "flat")) is None
    assert paths(folder_data(tmp_path / "flat"), "val", tmp_path / "flat") == ["valid/2.png"]


@pytest.mark.parametrize("more", ["extra/0.png", "0.png", None])
def test_other_folders_are_classes_as_ever(tmp_path, more):
    write_all(tmp_path, *TRAINING, *(["val/dog/9.png", more] if more else []))
    expected = {"extra/0.png": ("extra", "train", "val"), "0.png": None, None: ("train",)}[more]
    assert class_names(folder_data(tmp_path)) == expected


def test_folders_of_a_split_are_classes_where_another_validation_is_given(tmp_path):
    write_all(tmp_path, *TRAINING, "val/dog/9.png")
    assert class_names(folder_data(tmp_path, val_path=str(tmp_path))) == ("train", "val")


def test_maps_of_a_split_lie_in_folders_like_it_or_in_one(tmp_path):
    write_all(tmp_path / "img", *TRAINING, "val/dog/9.png")
    labels = np.zeros((18, 20), np.uint8)
    for name in (*TRAINING, "val/dog/9.png"):
        for file in (tmp_path / "like" / name, tmp_path / "one" / name.split("/", 1)[1]):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_label_map(str(file), labels)
    for maps in ("like", "one"):
        cfg = folder_data(tmp_path / "img", maps=str(tmp_path / maps), n_labels=1)
        cfg = DataConfig(**{**vars(cfg), "annotations": ("segmentation",)})
        assert num_examples(cfg, "train") == 3 and num_examples(cfg, "val") == 1


def test_classes_of_validation_are_checked_only_where_they_are_asked_for(tmp_path):
    write_all(tmp_path, "train/summer/0.png", "train/winter/0.png", "val/0.png", "val/1.png", "val2/autumn/0.png")
    for val, n, message in (
        ("val", 2, "in no subfolder of a class, such as '0.png'"),
        ("val2", 1, r"not have: \['autumn'\]"),
    ):
        cfg = folder_data(tmp_path / "train", val_path=str(tmp_path / val))
        assert num_examples(cfg, "val") == n and class_names(cfg) == ("summer", "winter")
        assert next(make_batches(cfg, "val"))["class_label"].tolist() == [0]
        asked = folder_data(tmp_path / "train", val_path=str(tmp_path / val), annotations=("class_label",))
        assert num_examples(asked, "train") == 2
        with pytest.raises(ValueError, match=rf"no class_label.*{message}; known: \['summer', 'winter'"):
            num_examples(asked, "val")
        chosen = folder_data(tmp_path / "train", val_path=str(tmp_path / val), classes="0:1")
        with pytest.raises(ValueError, match=message):
            num_examples(chosen, "val")


def test_maps_are_prepared_once_for_a_real_file_and_within_their_folder(tmp_path):
    write_all(tmp_path / "img", "a/0.png", "a/._0.png")
    (tmp_path / "img/again").symlink_to("a")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/up.txt").write_text("../img/a/0.png\n", encoding="utf-8-sig")
    model = lambda image: np.zeros(image.shape[:2], np.uint8)
    for images, name in (("img", "a/0.png"), ("lists/up.txt", "img/a/0.png")):
        out = tmp_path / "out" / images
        assert prepare("segmentation", str(tmp_path / images), str(out), model)["written"] == 1
        assert [str(file.relative_to(out)) for file in out.rglob("*.png")] == [name]


def test_class_folders_of_imagenet_are_real_ones(tmp_path):
    write_all(tmp_path, "train/n01/0.JPEG", "train/n02/1.JPEG", "train/@eaDir/x.JPEG", "val/n02/2.JPEG")
    (tmp_path / "train/latest").symlink_to(".")
    cfg = DataConfig("imagenet", path=str(tmp_path), size=16, annotations=("class_label",))
    assert class_names(cfg) == ("n01", "n02") and num_examples(cfg, "train") == 2 and num_examples(cfg, "val") == 1
