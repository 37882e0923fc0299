"""Stands in for NumPy's build backend while pip fetches its sources.

`pip download` asks a source package for its metadata before it keeps the file, and NumPy's own backend would
configure a whole native build to answer. Only the name and the version are needed here; nothing is ever built
through this module.
"""

import os


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    version = os.environ["WEIR_NUMPY_VERSION"]
    name = f"numpy-{version}.dist-info"
    os.makedirs(os.path.join(folder, name), exist_ok=True)
    with open(os.path.join(folder, name, "METADATA"), "w", encoding="utf-8") as file:
        file.write(f"Metadata-Version: 2.1\nName: numpy\nVersion: {version}\n")
    return name


def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise RuntimeError("this backend only names the package; build.py builds it")
