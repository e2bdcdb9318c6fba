"""Caption versions that can be made from tags: v3, fewer of them, and v4, a sentence.

What a tag speaks of and how a sentence says it stands in tag_categories.toml; here are the rules that use it. Nothing is drawn at
random: the same tags give the same caption. Made captions are written into the subject's list, where a person reads and corrects them;
nothing is derived unseen when a subject is loaded. (The built-in subject's v3 and v4 are older: drawn, from true attributes.)"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import SubjectError
from trainables.folder_files import list_folder
from trainables.metadata import (
    TEXT_VERSION,
    add_captions,
    jsonl_text,
    list_files,
    raise_first,
    write_aside,
)
from trainables.subject import EMBEDDED_FOLDER, Subject, load_subject

MOST_WORDS_IN_A_TAG = 8
_CATEGORIES_FILE = Path(__file__).with_name("tag_categories.toml")


@dataclass(frozen=True)
class Category:
    """What some tags have in common."""

    name: str
    simplified: bool  # whether a simplified caption keeps its tags
    clause: str
    phrases: Mapping[tuple[str, ...], str]  # words -> clause, "" for the category's

    def clause_of(self, tag: str, phrase: tuple[str, ...]) -> str:
        """What a sentence says for a tag."""
        clause = self.phrases[phrase]
        if not clause or ("{" not in clause and _words(tag) != phrase):
            clause = self.clause
        shown = tag.replace("_", " ")
        return clause.format(tag=shown, a=_with_article(shown))


def simplified_tags(caption: str, trigger: str) -> str:
    """v3 of a v2: the tag with the trigger, then the tags of those categories that a simplified caption keeps, and unknown ones."""
    first, naming, rest = _parted(caption, trigger)
    kept = [tag for tag in rest if (found := category_of(tag)) is None or found[0].simplified]
    return ", ".join((first, *naming, *kept))


def sentence(caption: str, trigger: str) -> str:
    """v4 of a v2: "J3NN13 is smiling at the camera with long black hair". Unknown tags stand at its end, after commas."""
    first, naming, rest = _parted(caption, trigger)
    clauses: dict[str, list[str]] = {name: [] for name in _categories()}
    others = []
    for tag in rest:
        found = category_of(tag)
        if found is None or (found[0].name == "framing" and clauses["framing"]):
            others.append(tag)
        else:
            clauses[found[0].name].append(_clause(tag, *found))
    opening = "".join(f"{clause} " for clause in clauses.pop("framing")) + first
    doing = _doing(clauses)
    predicate = ["is"] * (opening == first) + [_listed(doing)] if doing else []
    return ", ".join(
        (
            " ".join([opening, *predicate, *_further(clauses)]),
            *naming,
            *(tag.replace("_", " ") for tag in others),
        )
    )


DERIVATIONS: Mapping[str, Callable[[str, str], str]] = {"v3": simplified_tags, "v4": sentence}
"""How a version is made of v2 and the trigger."""


def derived(captions: Mapping[str, str], trigger: str, versions: Sequence[str], where: str) -> dict[str, str]:
    """These versions, made of an image's v2; nothing without one.

    Raises: SubjectError if v2 is no list of tags."""
    tags = captions.get(TEXT_VERSION, "")
    if not tags.strip():
        return {}
    longest = max(_tags_of(tags), key=lambda tag: len(tag.split()), default="")  # of ", ," none
    if len(longest.split()) > MOST_WORDS_IN_A_TAG:
        raise SubjectError(
            f"{' and '.join(versions)} are made of tags of at most {MOST_WORDS_IN_A_TAG} words with commas between them, but v2 of {where} "
            f"has {longest.strip()!r:.80}. Write tags, or write {' and '.join(versions)} yourself."
        )
    return {version: DERIVATIONS[version](tags, trigger) for version in versions}


def caption_subject(name_or_dir: str | Path, versions: Sequence[str], *, replace: bool = False) -> int:
    """Write these versions, made of v2, into the subject's list; a kohya folder gets one. Returns how many images have them.

    Raises: SubjectError if the subject cannot be used, has no v2, or has one of the versions already (unless `replace`)."""
    require_derivable(versions)
    subject = load_subject(name_or_dir)
    _require_room(subject, versions, replace=replace)
    added = {i.file_name: derived(i.captions, subject.trigger, versions, str(i.path)) for i in subject.images}
    if list_files(subject.root):
        add_captions(subject.root, added)
    else:
        _start_list(subject, added)
    return sum(bool(captions) for captions in added.values())


def require_derivable(versions: Sequence[str]) -> None:
    """Raises: SubjectError if there is no rule to make one of these versions."""
    if unknown := [version for version in versions if version not in DERIVATIONS]:
        raise SubjectError(
            f"Versions that can be derived are {', '.join(DERIVATIONS)}, but {unknown[0]!r} is asked for. Write it yourself."
        )


def category_of(tag: str) -> tuple[Category, tuple[str, ...]] | None:
    """The category of a tag and the phrase that tells it; None if it is unknown."""
    words = _words(tag)
    for length in range(min(len(words), _longest_phrase()), 0, -1):
        for start in range(len(words) - length, -1, -1):
            for category in _categories().values():
                if words[start : start + length] in category.phrases:
                    return category, words[start : start + length]
    return None


def _clause(tag: str, category: Category, phrase: tuple[str, ...]) -> str:
    place = re.sub(r"[ _-]background$", "", tag)
    # "gym background" is in a gym; "white background" is in front of one.
    if category.name == "background" and place != tag and (found := category_of(place)) and found[0].name == "background":
        return found[0].clause_of(place, found[1])
    return category.clause_of(tag, phrase)


def _doing(clauses: Mapping[str, Sequence[str]]) -> list[str]:
    """What the subject is doing, with "smiling" and "looking at the camera" made one."""
    feeling, posing, gazing = ([c for c in clauses[name] if _is_doing(c)] for name in ("expression", "pose", "gaze"))
    if gazing and feeling and re.fullmatch(r"[\w-]+ing", feeling[-1]) and (seen := re.fullmatch(r"looking ((at|to) .+)", gazing[0])):
        feeling[-1], gazing = f"{feeling[-1]} {seen[1]}", gazing[1:]
    return list(dict.fromkeys([*feeling, *posing, *gazing]))


def _further(clauses: Mapping[str, Sequence[str]]) -> list[str]:
    """The other clauses, those with "with" and those with "wearing" made one each."""
    joined: list[tuple[str, list[str]]] = []
    for clause in (clause for name in clauses for clause in clauses[name] if not _is_doing(clause)):
        word, _, rest = clause.partition(" ")
        if joined and joined[-1][0] == word and word in ("with", "wearing"):
            joined[-1][1].append(rest)
        else:
            joined.append((word, [rest] if rest else []))
    return [" ".join([word, *([_listed(rests)] if rests else [])]) for word, rests in joined]


def _is_doing(clause: str) -> bool:
    word = clause.split(" ")[0]
    return word.endswith("ing") and word != "wearing"


def _listed(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def _parted(caption: str, trigger: str) -> tuple[str, list[str], list[str]]:
    """The tag that names the trigger, what further such tags say beside it, and the other tags, in
    their order, each once.

    Of several tags that name it, the first that says more: "J3NN13, J3NN13 in a hat" opens with
    the hat."""
    tags = list(dict.fromkeys(_tags_of(caption)))
    word = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)
    naming = [tag for tag in tags if word.search(tag)]
    beside = {tag: " ".join(word.sub(" ", tag).split()) for tag in naming}
    first = next((tag for tag in naming if beside[tag]), naming[0] if naming else trigger)
    further = dict.fromkeys(beside[tag] for tag in naming if tag != first)
    return (
        first,
        [words for words in further if words and words != beside.get(first)],
        [tag for tag in tags if tag not in naming],
    )


def _tags_of(caption: str) -> list[str]:
    """What stands between its commas and line ends, with single spaces."""
    return [" ".join(tag.split()) for tag in re.split(r"[,\n]", caption) if tag.strip()]


def _with_article(tag: str) -> str:
    words = _words(tag)
    plural = words[-1].endswith("s") and not words[-1].endswith("ss")
    if plural or words[0] in ("a", "an", "the", "her", "his", "their", "no") or _is_uncountable(words):
        return tag
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {tag}"


def _is_uncountable(words: tuple[str, ...]) -> bool:
    return any(words[-len(phrase) :] == phrase for phrase in map(_words, _file_content()["uncountable"]))


def _words(tag: str) -> tuple[str, ...]:
    return tuple(re.split(r"[\s_-]+", tag.lower().strip(" _-")))


@functools.cache
def _file_content() -> dict[str, Any]:
    return tomllib.loads(_CATEGORIES_FILE.read_text(encoding="utf-8"))


@functools.cache
def _categories() -> dict[str, Category]:
    tables = {name: table for name, table in _file_content().items() if isinstance(table, dict)}
    return {
        name: Category(name, table["simplified"], table["clause"], {_words(phrase): clause for phrase, clause in table["phrases"].items()})
        for name, table in tables.items()
    }


@functools.cache
def _longest_phrase() -> int:
    return max(len(phrase) for category in _categories().values() for phrase in category.phrases)


def _require_room(subject: Subject, versions: Sequence[str], *, replace: bool) -> None:
    if subject.root == EMBEDDED_FOLDER:
        raise SubjectError(
            "The built-in subject ships with its captions, and they are part of its keys. Copy its folder, and caption the copy."
        )
    if TEXT_VERSION not in subject.caption_versions:
        raise SubjectError(
            f"{' and '.join(versions)} are made of {TEXT_VERSION}, but {subject.root} has none. Write tags beside its images."
        )
    there = [version for version in versions if version in subject.caption_versions]
    if there and not replace:
        raise SubjectError(f"A caption is not overwritten unasked, but {subject.root} has {' and '.join(there)} already. Use --replace.")


def _start_list(subject: Subject, added: Mapping[str, Mapping[str, str]]) -> None:
    listed = {path for image in subject.images for path in (image.path, image.mask)}
    for path in list_folder(subject.root, raise_first).images:
        if path not in listed:  # a kohya folder may hold others, a list must name all
            raise SubjectError(f"Every image must have a row in metadata.jsonl, but {path} is none of the subject's. Move it away.")
    rows = [{"file_name": i.file_name, "captions": {**i.captions, **added[i.file_name]}} for i in subject.images]
    write_aside(subject.root / "metadata.jsonl", jsonl_text(rows))
