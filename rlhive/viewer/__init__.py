"""A page on which a dataset is looked at: its episodes, distributions, coverage, checks and provenance.

::

    DatasetView ─► ViewedDataset ─► answers, JSON ─┬─► ViewerServer, on the loopback interface ─► page
                                                   └─► export_page, one file that holds page and answers
"""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.viewer._dataset import ViewedDataset as ViewedDataset
    from rlhive.viewer._export import ExportedPage as ExportedPage, export_page as export_page
    from rlhive.viewer._server import ViewerServer as ViewerServer
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
