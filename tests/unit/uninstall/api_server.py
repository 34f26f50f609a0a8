#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An API server that knows PersistentVolumes alone, by TLS and with the token "right".

api_server.py FOLDER VOLUMES: makes a certificate in FOLDER (ca.crt), listens on a free port of
127.0.0.1, writes it to FOLDER/port, and gives so many volumes, two a page. The paths that it was asked
for are appended to FOLDER/asked.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PAGE = 2


def make_certificate(folder: Path) -> None:
    """ca.crt, which signs itself, and its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=api",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key", "-out", folder / "ca.crt"],
        check=True,
    )


def volume(number: int) -> dict[str, object]:
    """Each third is of another driver."""
    driver = "other.example.com" if number % 3 == 2 else "csi.ublkd.dev"
    claim = {"namespace": "shop", "name": f"db-{number}"}
    return {
        "metadata": {"name": f"pv-{number}"},
        "spec": {"csi": {"driver": driver, "volumeHandle": "x"}, "claimRef": claim},
    }


def main() -> None:
    """Serves until it is killed."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])

    class Handler(BaseHTTPRequestHandler):
        """Answers one connection."""

        def do_GET(self) -> None:  # pylint: disable=invalid-name
            """A page of the list."""
            with (folder / "asked").open("a", encoding="utf-8") as asked:
                asked.write(self.path + "\n")
            url = urllib.parse.urlparse(self.path)
            if self.headers["Authorization"] != "Bearer right":
                return self.answer(403, {"kind": "Status"})
            if url.path != "/api/v1/persistentvolumes":
                return self.answer(404, {"kind": "Status"})
            query = urllib.parse.parse_qs(url.query)
            begin = int(query.get("continue", ["from/0"])[0].removeprefix("from/"))
            end = min(begin + PAGE, count)
            metadata = {"continue": f"from/{end}"} if end < count else {}
            items = [volume(number) for number in range(begin, end)]
            body = {"kind": "PersistentVolumeList", "metadata": metadata, "items": items}
            return self.answer(200, body)

        def answer(self, status: int, body: dict[str, object]) -> None:
            """One answer in JSON."""
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    make_certificate(folder)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    (folder / "port.new").write_text(str(server.server_address[1]), encoding="utf-8")
    (folder / "port.new").rename(folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    main()
