"""Interpret object names by the layout of their dataset: images, annotations, groups and labels."""

from __future__ import annotations

import re

from datasets import Layout
from sources.content_type import is_image


def is_photo(layout: Layout, path: str) -> bool:
    """Whether this is the name of one of the dataset's images."""
    return path.startswith(layout.images) and is_image(path)


def group(layout: Layout, path: str) -> str:
    """The group of an image: its folder, or its name up to the last "_"."""
    folder, slash, name = path.removeprefix(layout.images).rpartition("/")
    return folder if slash else name.rpartition("_")[0] or name


def label(group: str) -> str:
    """The display name of a group: "n02085620-Japanese_spaniel" is Japanese spaniel."""
    return re.sub(r"^(\d+-)?n\d+-", "", group).replace("_", " ")


def annotation_of(layout: Layout, image: str) -> str:
    """The name of an image's annotation."""
    before, key, after = layout.annotation_parts
    name = image[len(layout.images) :] if key == "name" else image[len(layout.images) : image.rindex(".")]
    return f"{before}{name}{after}"


def annotated(layout: Layout, annotation: str) -> str:
    """The name of an annotation's image below the layout's prefix; without its suffix if the layout has {stem}."""
    before, _, after = layout.annotation_parts
    return annotation[len(before) : len(annotation) - len(after)]


def is_annotation(layout: Layout, path: str) -> bool:
    """Whether an annotation can have this name."""
    before, _, after = layout.annotation_parts
    return path.startswith(before) and path.endswith(after)
