"""Whether an artifact is the one its certificate is about: hashes of both, and a signature where one is wanted.

The artifact's hash covers every byte of its files and its header but the certificate; the seal is a hash of the whole
certificate, that hash included. So neither can be changed without the other showing it. Whoever changes both can hash
both again; where artifacts come from elsewhere, a signature says who made the certificate (Ed25519, by the
cryptography package). Without PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigError
from ..files import regular

if TYPE_CHECKING:
    from .artifact import Artifact

_SIGNED = b"hsvdet certificate\n"  # so that a signature of something else with the same key is none of this
_NOT_SEALED = ("seal", "signature")


def seal_of(certificate: Mapping[str, Any]) -> str:
    """Of a certificate as JSON, without its seal and signature: 64 hexadecimal digits."""
    content = {key: value for key, value in certificate.items() if key not in _NOT_SEALED}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def doubt(artifact: Artifact, trusted: str | PathLike[str] | None = None) -> str | None:
    """Why an artifact may not be called certified, in words that follow its name; None where it may.

    trusted: a file with the public key (PEM) that must have signed the certificate. Raises ConfigError where that
    cannot be read.
    """
    certificate, key = artifact.header.certificate, None if trusted is None else _public_key(trusted)
    if certificate is None:
        return "it has no certificate. Make one: hsvdet certify"
    if "seal" not in certificate:
        return "its certificate is of an earlier hsvdet and not bound to the file. Certify it again"
    if certificate["seal"] != seal_of(certificate):
        return "its certificate was changed after it was written. Certify it again"
    if certificate.get("artifact_sha256") != artifact.sha256:
        return (
            "it was changed after it was certified, or has another artifact's certificate. Certify it again"
        )
    if certificate.get("passed") is not True:
        reasons = certificate.get("reasons")
        first = reasons[0] if isinstance(reasons, list) and reasons else "no reason is given"
        return f"it was compared with its detector and refused: {first}"
    if key is not None and not _signed(certificate, key):
        return f"its certificate is not signed by {trusted}"
    return None


def sign(seal: str, key: str | PathLike[str]) -> str:
    """The signature, in hexadecimal. key: a file with an Ed25519 private key (PEM, without a password):
    `openssl genpkey -algorithm ed25519 -out key.pem`. Raises ConfigError."""
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(_read(key), password=None)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{key}: expected an Ed25519 private key in PEM without a password: {error}."
        ) from None
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ConfigError(f"{key}: expected an Ed25519 private key; this is of another kind.")
    return loaded.sign(_SIGNED + seal.encode()).hex()


def _signed(certificate: Mapping[str, Any], key: Any) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(certificate["signature"]), _SIGNED + certificate["seal"].encode())
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


def _public_key(path: str | PathLike[str]) -> Any:
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        loaded = load_pem_public_key(_read(path))
    except ValueError as error:
        raise ConfigError(f"{path}: expected an Ed25519 public key in PEM: {error}.") from None
    if not isinstance(loaded, Ed25519PublicKey):
        raise ConfigError(f"{path}: expected an Ed25519 public key; this is of another kind.")
    return loaded


def _need_cryptography() -> None:
    if find_spec("cryptography") is None:
        raise ConfigError('Signatures need cryptography: pip install "hsvdet[sign]"')


def _read(path: str | PathLike[str]) -> bytes:
    try:
        return regular(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read: {error.strerror}.") from None


def require(artifact: Artifact, why_not: str | None) -> None:
    """Raises CheckpointError where there is a doubt."""
    if why_not is not None:
        raise CheckpointError(f"{artifact.path}: expected a certified artifact; {why_not}.")
