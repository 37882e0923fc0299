"""Build step: write down how the guest's CPython was configured, for the header that its extensions need."""

import os
import shutil

SOURCE = "/python/_sysconfig_vars__wasi_wasm32-wasi.json"
shutil.copyfile(SOURCE, os.path.join(os.path.dirname(__file__), "settings.json"))


class WitWorld:
    def packed(self):
        """Never called: the file above is the result."""
