"""Describe the table of images in croissant.json, which loaders of datasets read.

Croissant 1.1 of MLCommons, which is JSON-LD: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset
from manifest.labels.table import CSV, JSONL, TableFile
from manifest.store import TABLES

CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "arrayShape": "cr:arrayShape", "citeAs": "cr:citeAs",
    "column": "cr:column", "conformsTo": "dct:conformsTo", "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/", "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty", "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract", "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes", "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5",
    "name": {"@container": "@language"}, "parentField": "cr:parentField", "path": "cr:path",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "samplingRate": "cr:samplingRate", "sc": "https://schema.org/",
    "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip
TEXT, INTEGER, NUMBER = "sc:Text", "sc:Integer", "sc:Float"
# Column → type and meaning. Width and height are floats because they can be missing, and pandas then reads a column of
# whole numbers as floats.
FIELDS = {
    "path": (TEXT, "The image's name below the destination, a bucket, a prefix of one or a directory."),
    "label": (TEXT, "What the image shows: the breed, or the dog's id."),
    "label_index": (INTEGER, "The label's number, from 0."),
    "split": (TEXT, "The part of the dataset that the image belongs to."),
    "width": (NUMBER, "Pixels."),
    "height": (NUMBER, "Pixels."),
    "format": (TEXT, "The format by the image's first bytes, not by its name."),
    "boxes": (TEXT, "A JSON list of boxes: kind, xmin, ymin, xmax, ymax in pixels, as the annotation has them."),
    "annotation": (TEXT, "The annotation's name below the destination."),
    "size": (INTEGER, "Bytes of the image."),
    "crc32c": (TEXT, "The image's CRC-32C, in base64, as Google Cloud Storage shows it."),
    "weight_pounds": (NUMBER, "The dog's weight."),
    "dob": (NUMBER, "The dog's date of birth, as YYYYMMDD."),
}


def croissant(dataset: Dataset, files: Iterable[TableFile], columns: Iterable[str]) -> bytes:
    """Return croissant.json of a dataset with this table."""
    fields = _fields(dataset, files, columns)
    return json.dumps({key: value for key, value in fields.items() if value}, indent=2).encode() + b"\n"


def _fields(dataset: Dataset, files: Iterable[TableFile], columns: Iterable[str]) -> dict[str, Any]:
    """All fields; home, licence, citation, creator and date are empty if the dataset does not state them."""
    name = dataset.title.partition(": ")[0]
    creator = {"@type": "Organization", "name": dataset.creator} if dataset.creator else None
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": dataset.name,
        "description": f"{dataset.title}. One line for each image, with its label, split and boxes.",
        "url": dataset.home,
        "license": dataset.licence,
        "citeAs": dataset.citation,
        "creator": creator,
        "datePublished": dataset.published,
        "version": "1.0.0",
        "distribution": [_file_object(file) for file in files],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "description": f"The images of {name}.",
                "key": {"@id": "images/path"},
                "field": [_field(column) for column in columns],
            }
        ],
    }


def _file_object(file: TableFile) -> Mapping[str, Any]:
    sealed = file.encode()
    meaning = {CSV: "The table of images.", JSONL: "The same as JSON, a line each."}
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "description": meaning[file.name],
        "contentUrl": file.name,
        "contentSize": f"{sealed['size']} B",
        "encodingFormat": TABLES[file.name],
        "sha256": sealed["sha256"],
    }


def _field(column: str) -> Mapping[str, Any]:
    kind, meaning = FIELDS.get(column, (TEXT, f"The dog's {column}."))
    return {
        "@type": "cr:Field",
        "@id": f"images/{column}",
        "name": column,
        "description": meaning,
        "dataType": kind,
        "source": {"fileObject": {"@id": CSV}, "extract": {"column": column}},
    }
