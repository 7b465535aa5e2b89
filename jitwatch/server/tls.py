"""The endpoint's TLS settings, with errors that name the file at fault."""

from __future__ import annotations

import ssl

from jitwatch.errors import EndpointConfigError


def server_context(cert: str, key: str, client_ca: str | None = None) -> ssl.SSLContext:
    """Build the context of a server that speaks TLS 1.2 or newer.

    Args:
        cert: PEM file with the certificate, intermediate ones after it.
        key: PEM file with its private key, without a passphrase.
        client_ca: PEM file of the authorities whose client certificates are accepted; with it, a
            client without a certificate is refused during the handshake.

    Raises:
        EndpointConfigError: A file is missing, unreadable, no PEM, or the key belongs to another certificate.
    """
    for option, path in (("tls_cert", cert), ("tls_key", key), ("tls_client_ca", client_ca)):
        if path is not None:
            _check_readable(option, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Renegotiation would cost CPU outside of the budget. Sessions are not resumed: a scrape is one short connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        # Without a password OpenSSL would prompt for the passphrase on the terminal, and wait.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        raise EndpointConfigError(
            f"tls_cert {cert!r} and tls_key {key!r} cannot be used ({_reason(error)}): name a PEM certificate "
            "and the private key that belongs to it, without a passphrase"
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(cafile=client_ca)
        except (OSError, ValueError) as error:
            raise EndpointConfigError(
                f"tls_client_ca {client_ca!r} cannot be used ({_reason(error)}): name a PEM file with the "
                "certificates of the authorities that sign your clients"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(option: str, path: str) -> None:
    # OpenSSL's own errors do not name the file.
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise EndpointConfigError(
            f"{option} {path!r} cannot be read ({error.strerror}): check the path and its permissions"
        ) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)
