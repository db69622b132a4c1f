"""Files are written whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_whole(path, content):
    """Write text or bytes beside, then rename: no half-written file is ever left, and none is lost. Returns the path.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.close()  # Windows renames no open file
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise
    return path
