"""What a job on a machine has printed, and the file on this computer that keeps it."""

from __future__ import annotations

import codecs
from pathlib import Path

from ..terminal import printable

TAIL = 8000  # characters


class JobLog:
    """Keeps at most `most` bytes of a job's output in `file`, and its end as `tail`.

    Snakemake may print the file, so control characters are written out in it.
    """

    def __init__(self, file: Path, most: float) -> None:
        self.file, self.most, self.tail = file, int(most), ""
        self._size = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def full(self) -> bool:
        return self._size >= self.most

    def add(self, data: bytes) -> str:
        """Append output; the output as text."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = self._decoder.decode(data)
        shown = printable(text.replace("\r\n", "\n").replace("\r", "\n")).encode()
        room = self.most - self._size
        if room > 0:
            with open(self.file, "ab") as file:
                file.write(shown[:room].decode(errors="ignore").encode())
                if len(shown) >= room:
                    file.write(b"\nvast: more is not kept here, see --vast-output-mib\n")
            self._size += len(shown)
        self.tail = (self.tail + text)[-TAIL:]
        return text
