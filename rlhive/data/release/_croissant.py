"""The Croissant description of a version (https://docs.mlcommons.org/croissant), with its Responsible AI fields.

Each split is a record set of the rows in its Parquet shards, and the episode table is one more. mlcroissant, the
reference reader, verifies the SHA-256 of a FileObject, and reads several Parquet files as one FileSet only. So a split
of one shard is read from its FileObject, one of several shards from a FileSet. mlcroissant finds the files of a FileSet
beside the description, or, for a description that is published, in a clone of the repository, as for the descriptions
that the Hub writes.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from rlhive import keys
from rlhive._text import printable
from rlhive.data import _arrow
from rlhive.data._dtypes import BFLOAT16_NAME
from rlhive.data._schema import Field
from rlhive.data.release import _description
from rlhive.data.release._answers import Answers
from rlhive.data.versions import EPISODES_PATH, FileEntry, Manifest

CROISSANT_URL = "http://mlcommons.org/croissant/1.1"
RAI_URL = "http://mlcommons.org/croissant/RAI/1.0"
#: Record set of the episode table; no split has a hyphen in its name.
EPISODE_RECORDS = "episode-table"
_REPOSITORY = "repository"
#: What the Hub writes where Croissant asks for the SHA-256 of a git repository, which has none.
_NO_HASH = "https://github.com/mlcommons/croissant/issues/80"
_PARQUET = "application/x-parquet"  # the only name of Parquet that mlcroissant reads
_ENCODINGS = {
    ".parquet": _PARQUET,
    ".json": "application/json",
    ".md": "text/markdown",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
}

_TYPES = {
    "double": "cr:Float64",
    "float": "cr:Float32",
    "halffloat": "cr:Float16",
    "bool": "sc:Boolean",
    "string": "sc:Text",
    "large_string": "sc:Text",
    **{f"int{bits}": f"cr:Int{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"cr:UInt{bits}" for bits in (8, 16, 32, 64)},
}

#: Type of a list of pictures: the bytes of their files, since mlcroissant 1.1 decodes single pictures only.
_PICTURES = "sc:Text"

#: The context of the specification, and the vocabulary of provenance.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def render_croissant(
    manifest: Manifest, episode_schema: pa.Schema, answers: Answers, address: _description.Address
) -> str:
    """Return ``croissant.json``. Text of the manifest is data in it, and no markup where a page embeds it.

    Args:
        manifest: Manifest of the version.
        episode_schema: Arrow schema of the episode table.
        answers: What a person says about the dataset.
        address: Where the version is published.
    """
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [CROISSANT_URL, RAI_URL],
        **_build_identification(manifest, address),
        **_build_responsibility(manifest, answers),
        "distribution": list(_build_distribution(manifest, address)),
        "recordSet": [
            *(_describe_split(manifest, split) for split in manifest.splits if manifest.shards(split)),
            _describe_episode_table(manifest, episode_schema),
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026") + "\n"


def _build_identification(manifest: Manifest, address: _description.Address) -> dict[str, Any]:
    spdx = _description.spdx_license(manifest.license)
    is_listed = " " not in spdx and not spdx.startswith("LicenseRef-")
    created = _description.created_date(manifest)
    owner, name = manifest.name.split("/")
    return {
        "name": name,
        "description": printable(manifest.description) or f"Episodes of {printable(manifest.env_name) or 'a robot'}.",
        "version": manifest.version,
        "license": f"https://spdx.org/licenses/{spdx}.html" if is_listed else spdx,
        "url": address.page,
        "creator": {"@type": "sc:Organization", "name": owner},
        **({"datePublished": created} if created else {}),
        "citeAs": _description.cite(manifest, address),
        "keywords": ["robotics", "offline reinforcement learning", "RLHive"],
        "identifier": f"rlhive:{manifest.fingerprint}",
    }


def _build_responsibility(manifest: Manifest, answers: Answers) -> dict[str, Any]:
    """Return the fields of the Responsible AI extension and the provenance; what is not known is left out."""
    is_simulated = _description.is_simulated(manifest)
    timeframe = _description.find_timeframe(manifest)
    tools = [printable(tool) for tool in _description.list_tools(manifest)]
    processing = [printable(text) for text in _description.list_processing(manifest)]
    collection = printable(_description.describe_collection(manifest))
    activity = {"@type": "prov:Activity", "prov:label": collection}
    if timeframe is not None:
        activity |= {"prov:startedAtTime": timeframe[0], "prov:endedAtTime": timeframe[1]}
    return {
        "rai:dataUseCases": answers.intended_use,
        "rai:dataSocialImpact": answers.intended_use,
        "rai:dataLimitations": answers.limitations,
        "rai:dataBiases": answers.limitations,
        "rai:personalSensitiveInformation": answers.personal_information,
        "rai:dataCollection": collection,
        **({"rai:dataCollectionType": ["Experiments", "Software Collection"]} if is_simulated else {}),
        **({"rai:hasSyntheticData": True} if is_simulated else {}),
        **({"rai:dataCollectionTimeFrame": list(timeframe)} if timeframe else {}),
        "rai:dataCollectionMissingData": _description.describe_missing(manifest),
        **({"rai:dataPreprocessingProtocol": processing, "prov:wasDerivedFrom": processing} if processing else {}),
        **({"rai:machineAnnotationTools": tools} if tools else {}),
        "rai:dataReleaseMaintenancePlan": _description.MAINTENANCE,
        "prov:wasGeneratedBy": activity,
    }


def _build_distribution(manifest: Manifest, address: _description.Address) -> Iterator[dict[str, Any]]:
    """Yield every file, and a set of files for each split of several shards."""
    for entry in manifest.files:
        suffix = entry.path[entry.path.rfind(".") :]
        yield {
            "@type": "cr:FileObject",
            "@id": entry.path,
            "name": entry.path,
            "contentUrl": address.locate(entry.path),
            "contentSize": f"{entry.bytes} B",
            "encodingFormat": _ENCODINGS.get(suffix, "application/octet-stream"),
            "sha256": entry.sha256,
        }
    sharded = [split for split in manifest.splits if len(manifest.shards(split)) > 1]
    if sharded and address.is_published:
        yield {
            "@type": "cr:FileObject",
            "@id": _REPOSITORY,
            "name": _REPOSITORY,
            "contentUrl": f"{address.page}/tree/{quote(f'refs/tags/{address.tag}', safe='')}",
            "encodingFormat": "git+https",
            "sha256": _NO_HASH,
        }
    for split in sharded:
        yield {
            "@type": "cr:FileSet",
            "@id": _file_set(split),
            "name": _file_set(split),
            "encodingFormat": _PARQUET,
            "includes": [entry.path for entry in manifest.shards(split)],
            **({"containedIn": {"@id": _REPOSITORY}} if address.is_published else {}),
        }


def _describe_split(manifest: Manifest, split: str) -> dict[str, Any]:
    shards = manifest.shards(split)
    fields = {field.column: field for field in manifest.schema.fields}
    return _build_record_set(
        split,
        f"Transitions of the split {split}: one row per step.",
        _describe_source(split, shards),
        _arrow.row_schema(manifest.schema),
        fields,
        (keys.EPISODE, keys.STEP_COUNT),
    )


def _describe_source(split: str, shards: tuple[FileEntry, ...]) -> dict[str, Any]:
    return {"fileObject": {"@id": shards[0].path}} if len(shards) == 1 else {"fileSet": {"@id": _file_set(split)}}


def _describe_episode_table(manifest: Manifest, episode_schema: pa.Schema) -> dict[str, Any]:
    finals = {f"{_arrow.FINAL_PREFIX}{field.column}": field for field in manifest.schema.observed}
    text = "One row per episode: split, length, return, success, seed, final observations and start state."
    source = {"fileObject": {"@id": EPISODES_PATH}}
    return _build_record_set(EPISODE_RECORDS, text, source, episode_schema, finals, (keys.EPISODE,))


def _build_record_set(
    name: str,
    text: str,
    source: Mapping[str, Any],
    schema: pa.Schema,
    fields: Mapping[str, Field],
    identifying: tuple[str, ...],
) -> dict[str, Any]:
    """Return a record set.

    Args:
        name: Id of the record set.
        text: Its description.
        source: File or set of files that holds the records.
        schema: Arrow schema of the files.
        fields: Fields of the dataset's schema, by column.
        identifying: Columns that identify a record.
    """
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": text,
        "key": [{"@id": _field_id(name, column)} for column in identifying],
        "field": [_build_field(name, source, column, fields.get(column.name)) for column in schema],
    }


def _build_field(name: str, source: Mapping[str, Any], column: pa.Field, field: Field | None) -> dict[str, Any]:
    is_list = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    value_type = column.type.value_type if is_list else column.type
    is_picture = pa.types.is_struct(value_type)
    is_video = field is not None and field.is_video
    shape = str(column.type.list_size) if is_picture and is_list else _array_shape(column.type, field)
    return {
        "@type": "cr:Field",
        "@id": _field_id(name, column.name),
        "name": column.name,
        **({"description": text} if (text := _describe_values(field)) else {}),
        "dataType": "sc:Text" if is_video else _find_data_type(value_type, is_list=is_list),
        **({"isArray": True, "arrayShape": shape} if is_list else {}),
        "source": {
            **source,
            "extract": {"column": column.name},
            **({"transform": {"jsonPath": "path" if is_video else "bytes"}} if is_picture else {}),
        },
    }


def _find_data_type(value_type: pa.DataType, *, is_list: bool) -> Any:
    if pa.types.is_struct(value_type):
        return _PICTURES if is_list else "sc:ImageObject"
    return _TYPES[str(value_type)]


def _array_shape(kind: pa.DataType, field: Field | None) -> str:
    if field is not None:
        return ",".join(map(str, field.shape))
    return str(kind.list_size) if pa.types.is_fixed_size_list(kind) else "-1"


def _describe_values(field: Field | None) -> str:
    """Return unit, layout and bits of a field's values, where they are not plain."""
    if field is None:
        return ""
    sentences = [
        *([f"Unit: {printable(field.unit)}."] if field.unit else []),
        *(["Stored flat, in row-major order."] if len(field.shape) > 1 and not field.is_encoded else []),
        *([_describe_storage(field)] if field.is_encoded else []),
        *(["The 16 bits of a bfloat16."] if field.dtype == BFLOAT16_NAME else []),
    ]
    return " ".join(sentences)


def _describe_storage(field: Field) -> str:
    if field.is_video:
        return f"Frames of MP4 files, {field.storage}: the path of the file, and the number of the frame in it."
    if field.is_lossy:
        return f"Encoded with a loss, {field.storage}: each picture as the bytes of a JPEG file."
    return "Encoded without loss, each picture as the bytes of a PNG file."


def _file_set(split: str) -> str:
    return f"{split}-shards"


def _field_id(records: str, column: str) -> str:
    """Return the id of a column's field, an IRI whatever the column's name is."""
    return f"{records}/{quote(column, safe='')}"
