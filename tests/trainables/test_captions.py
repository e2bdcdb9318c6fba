"""Caption versions made of tags: what is dropped, how a sentence reads, and what is written into a subject's list."""

import json
from pathlib import Path

import pytest
from PIL import Image

from trainables.captions import caption_subject, category_of, derived, sentence, simplified_tags
from trainables.embedded.people import WORDS
from trainables.errors import SubjectError
from trainables.subject import load_subject

DETAILED = "J3NN13, wink, close-up, straight-look, make-up, red lipstick, braided hair, blue top, gym background, dark light"


def test_a_simplified_caption_drops_gaze_make_up_details_clothes_and_light_and_keeps_the_order():
    assert simplified_tags(DETAILED, "J3NN13") == "J3NN13, wink, close-up, make-up, braided hair, gym background"


def test_the_papers_own_example_of_a_simplified_caption_comes_out():
    detailed = "J3NN13, wink, close-up, straight-look, make-up, tongue-out, braiding hair"
    assert simplified_tags(detailed, "J3NN13") == "J3NN13, wink, close-up, make-up, tongue-out, braiding hair"


def test_the_papers_own_example_of_a_sentence_comes_out():
    assert sentence("J3NN13, smile, straight-look, long black hair", "J3NN13") == "J3NN13 is smiling at the camera with long black hair"


@pytest.mark.parametrize(
    "tags, says",
    [
        ("J3NN13", "J3NN13"),
        ("J3NN13, close-up, wall background", "a close-up of J3NN13 in front of a wall"),
        ("J3NN13, white background", "J3NN13 in front of a white background"),
        ("J3NN13, bun, hat, old coat, jeans", "J3NN13 with hair in a bun wearing a hat, an old coat and jeans"),
        ("J3NN13, sitting, looking_at_viewer", "J3NN13 is sitting and looking at the camera"),
        ("J3NN13, tongue-out, side-look", "J3NN13 is sticking the tongue out and looking to the side"),
        ("J3NN13 woman, slight smile, outdoor background", "J3NN13 woman with a slight smile outside"),
        ("smile, 1girl, blue_eyes", "J3NN13 is smiling, 1girl, blue eyes"),
    ],
)
def test_a_sentence_says_each_tag_once_and_unknown_ones_at_its_end(tags: str, says: str):
    assert sentence(tags, "J3NN13") == says


@pytest.mark.parametrize(
    "tag, name",
    [
        ("light blue shirt", "clothes"),
        ("dark hair", "hair"),
        ("hair ornament", "clothes"),
        ("red light background", "background"),
        ("no make-up", "make_up_details"),
        ("Upper_Body", "framing"),
        ("freckles", None),
        ("toplevel", None),
        ("-", None),
    ],
)
def test_a_tag_is_of_the_category_of_its_longest_then_last_phrase(tag: str, name: str | None):
    found = category_of(tag)
    assert (found and found[0].name) == name


def test_every_word_of_the_built_in_subject_is_known_in_its_category():
    names = {"top": "clothes"}
    for attribute, words in WORDS.items():
        for word in words:
            tag = f"{word} {attribute}" if attribute in ("background", "light") else word
            expected = "make_up_details" if word == "no make-up" else names.get(attribute, attribute)
            assert category_of(tag)[0].name == expected, tag


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two kohya images with tags; no list, no v3."""
    for number, tags in enumerate(("J3NN13, smile, red top", "J3NN13, wink, gym background")):
        folder = tmp_path / "10_jenny"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(tags)
    (tmp_path / "subject.json").write_text('{"trigger": "J3NN13"}')
    return tmp_path


def test_a_kohya_folder_gets_a_list_with_the_captions_it_had_and_the_derived_ones(root: Path):
    before = load_subject(root)
    assert caption_subject(root, ["v3", "v4"]) == 2
    subject = load_subject(root)
    assert subject.caption_versions == ("v1", "v2", "v3", "v4")
    assert subject.train_captions("v3") == ("J3NN13, smile", "J3NN13, wink, gym background")
    assert subject.train_captions("v4") == ("J3NN13 is smiling wearing a red top", "J3NN13 is winking in a gym")
    assert subject.training_digest("v2") == before.training_digest("v2")


def test_a_list_keeps_its_other_keys_and_its_form(root: Path):
    (root / "metadata.csv").write_text(
        'file_name,width,text\n10_jenny/0.png,64,"J3NN13, smile, red top"\n10_jenny/1.png,64,"J3NN13, wink"\n'
    )
    caption_subject(root, ["v3"])
    assert (root / "metadata.csv").read_text().splitlines() == [
        "file_name,width,text,captions.v3",
        '10_jenny/0.png,64,"J3NN13, smile, red top","J3NN13, smile"',
        '10_jenny/1.png,64,"J3NN13, wink","J3NN13, wink"',
    ]
    assert load_subject(root).caption_versions == ("v1", "v2", "v3")


def test_a_jsonl_list_in_hugging_faces_form_gains_captions_beside_its_text(root: Path):
    rows = [{"file_name": f"10_jenny/{i}.png", "text": "J3NN13, né, smile", "score": i} for i in range(2)]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    caption_subject(root, ["v4"])
    written = [json.loads(line) for line in (root / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert written == [row | {"captions": {"v4": "J3NN13 is smiling, né"}} for row in rows]


def test_a_version_that_is_there_is_replaced_only_if_asked(root: Path):
    caption_subject(root, ["v3"])
    with pytest.raises(SubjectError, match="has v3 already. Use --replace"):
        caption_subject(root, ["v3"])
    assert caption_subject(root, ["v3"], replace=True) == 2


@pytest.mark.parametrize(
    "versions, spoil, says",
    [
        (["v5"], lambda root: None, "'v5' is asked for"),
        (["v3"], lambda root: [path.unlink() for path in root.rglob("*.txt")], "has none. Write tags"),
        (
            ["v3"],
            lambda root: (root / "10_jenny/0.txt").write_text("a photo of J3NN13 who is standing in a room"),
            "'a photo of J3NN13 who",
        ),
        (["v3"], lambda root: Image.new("RGB", (64, 64)).save(root.joinpath("reg.png").with_suffix(".gif")), "no v2"),
    ],
)
def test_what_cannot_be_derived_is_one_line_and_nothing_is_written(root: Path, versions, spoil, says):
    spoil(root)
    with pytest.raises(SubjectError, match=says):
        caption_subject(root, versions)
    assert not (root / "metadata.jsonl").exists()


def test_an_image_outside_of_kohyas_folders_is_named_before_a_list_would_have_to_hold_it(root: Path):
    (root / "regularisation").mkdir()
    Image.new("RGB", (64, 64)).save(root / "regularisation" / "0.png")
    with pytest.raises(SubjectError, match="regularisation/0.png is none of the subject's"):
        caption_subject(root, ["v3"])
    assert not (root / "metadata.jsonl").exists()


def test_the_built_in_subject_is_not_written_to():
    with pytest.raises(SubjectError, match="Copy its folder"):
        caption_subject("embedded:subject", ["v3"], replace=True)


@pytest.mark.parametrize(
    "caption, simplified, said",
    [
        (
            "zq7kx, zq7kx in a red hat, smile",
            "zq7kx in a red hat, smile",
            "zq7kx in a red hat is smiling",
        ),
        (
            "zq7kx\nsmile,  red\ttop\nclose-up",
            "zq7kx, smile, close-up",
            "a close-up of zq7kx smiling wearing a red top",
        ),
        ("ZQ7KX, zq7kx, smile", "ZQ7KX, smile", "ZQ7KX is smiling"),
        (
            "zq7kx woman, zq7kx on a beach, smile",
            "zq7kx woman, on a beach, smile",
            "zq7kx woman is smiling, on a beach",
        ),
        ("smile\n\n,\n", "zq7kx, smile", "zq7kx is smiling"),
        ("zq7kx2, smile", "zq7kx, zq7kx2, smile", "zq7kx is smiling, zq7kx2"),
    ],
)
def test_tags_on_several_lines_and_beside_a_second_trigger_are_not_lost(caption, simplified, said):
    assert simplified_tags(caption, "zq7kx") == simplified
    assert sentence(caption, "zq7kx") == said


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_a_caption_of_commas_alone_has_no_tags(version):
    captions = derived({"v2": ", ,"}, "zq7kx", [version], "a.png")
    assert captions == derived({"v2": "zq7kx"}, "zq7kx", [version], "a.png")
