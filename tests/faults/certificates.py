"""An authority and certificates from it, good and bad, made by the ``openssl`` of the machine."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

PAST = ("20200101000000Z", "20200102000000Z")
NOW = ("20200101000000Z", "20491231000000Z")

CONFIG = """
[ca]
default_ca = us
[us]
database = index.txt
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Makes certificates in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name, text in (("ca.cnf", CONFIG), ("index.txt", ""), ("serial", "01\n")):
            (folder / name).write_text(text)
        extensions = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign")
        self._openssl(
            "req", "-x509", *KEY, *_files("ca"), "-days", "2", "-subj", "/CN=Authority", *extensions
        )

    def server(self, subject: str, valid: tuple[str, str] = NOW, *, own: bool = False) -> ssl.SSLContext:
        """
        The server's side of TLS with a certificate for *subject* (``IP:…`` or ``DNS:…``), signed by the
        authority or by its *own* key.
        """
        request = ("-subj", "/CN=server", "-addext", f"subjectAltName={subject}")
        self._openssl("req", *KEY, "-keyout", "server.key", "-out", "server.csr", *request)
        dates = ("-startdate", valid[0], "-enddate", valid[1])
        signer = ("-selfsign", "-keyfile", "server.key") if own else ("-keyfile", "ca.key", "-cert", "ca.crt")
        sign = ("ca", "-batch", "-notext", "-config", "ca.cnf", *signer, *dates)
        self._openssl(*sign, "-in", "server.csr", "-out", "server.crt")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.crt", self._folder / "server.key")
        return context

    def believer(self) -> ssl.SSLContext:
        """The client's side, as aiohttp makes it, which believes this authority besides the usual ones."""
        context = ssl.create_default_context()
        context.load_verify_locations(self._folder / "ca.crt")
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


def _files(name: str) -> Sequence[str]:
    return ("-keyout", f"{name}.key", "-out", f"{name}.crt")
