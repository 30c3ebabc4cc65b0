"""The release of a version: what a conference asks of a dataset, in a folder beside the version.

::

    <store>/<namespace>/<name>/<version>/           the version, unchanged
    <store>/<namespace>/<name>/<version>.release/
      croissant.json     Croissant 1.1 with the fields of its Responsible AI extension (JSON-LD)
      DATASHEET.md       the questions of "Datasheets for Datasets" (Gebru et al., 2021)
      SHA256SUMS         for ``sha256sum -c``
      release.yaml       the answers of a person
      …                  the files of the version, hard links where the file system has them
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.data.release._answers import (
        QUESTIONS as QUESTIONS,
        Answers as Answers,
        read_answers_file as read_answers_file,
    )
    from rlhive.data.release._description import Address as Address
    from rlhive.data.release._write import (
        RELEASE_FILES as RELEASE_FILES,
        read_released_answers as read_released_answers,
        render_release as render_release,
        write_release as write_release,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
