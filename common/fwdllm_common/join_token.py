"""The join token: one line with the enrolment address, the authority to trust and a one-time secret."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass
from typing import ClassVar

from fwdllm_common.errors import BadInputError


@dataclass(frozen=True)
class JoinToken:
    """The token that ``fwdllm-server enroll`` prints.

    ``address`` is host:port of EnrolmentService, ``ca_sha256`` the hex SHA-256 of the CA certificate's DER bytes. The
    coordinator accepts ``secret`` once.
    """

    address: str
    ca_sha256: str
    secret: str
    PREFIX: ClassVar[str] = "fwdllm1-"

    def encode(self) -> str:
        """Return the token as text: printable ASCII without spaces."""
        return self.PREFIX + base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Parse a token from the text that :meth:`encode` returns.

        :raises BadInputError: the text is not a join token, or is incomplete.
        """
        wrong = BadInputError(
            "this is not a whole join token; copy the whole line that 'fwdllm-server enroll --name NAME' printed"
        )
        if not text.startswith(cls.PREFIX):
            raise wrong
        body = text.removeprefix(cls.PREFIX)
        try:
            value = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
            token = cls(**value)
        except (binascii.Error, ValueError, TypeError, RecursionError) as error:
            raise wrong from error
        if not all(isinstance(part, str) and part for part in (token.address, token.ca_sha256, token.secret)):
            raise wrong
        return token
