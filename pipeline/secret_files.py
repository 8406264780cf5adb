"""Read secrets from files: `NAME_FILE=/run/secrets/name` replaces `NAME=...`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from pipeline.errors import SettingsError


class SecretFiles(PydanticBaseSettingsSource):
    """Settings source: secrets from files named in one place, the environment or `.env`.

    Raises SettingsError if a place gives both NAME and NAME_FILE, or if a file cannot be read or is
    empty. The message names the setting, and never includes the content of a file.
    """

    def __init__(self, settings: type[BaseSettings], place: PydanticBaseSettingsSource) -> None:
        super().__init__(settings)
        assert isinstance(place, EnvSettingsSource)  # noqa: S101  (`.env` is one too)
        self._given: Mapping[str, str | None] = place.env_vars

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = self._given.get(f"{field_name}_file") if is_secret(field) else None
        if not path:
            return None, field_name, False
        if self._given.get(field_name):
            name = field_name.upper()
            raise SettingsError(f"{name} and {name}_FILE are both set: remove one")
        return _read(f"{field_name}_file".upper(), Path(path)), field_name, False

    def __call__(self) -> dict[str, Any]:
        problems: list[str] = []
        secrets = dict(self._secrets(problems))
        if problems:
            raise SettingsError("; ".join(problems))
        return secrets

    def _secrets(self, problems: list[str]) -> Iterator[tuple[str, str]]:
        for name, field in self.settings_cls.model_fields.items():
            try:
                secret, _, _ = self.get_field_value(field, name)
            except SettingsError as error:
                problems.append(str(error))
                continue
            if secret is not None:
                yield name, secret


def is_secret(field: FieldInfo) -> bool:
    """Return whether a setting may be in a file: if its type or field hides it from the repr."""
    kinds = (field.annotation, *get_args(field.annotation))
    return SecretStr in kinds or field.repr is False


def _read(name: str, path: Path) -> str:
    try:
        secret = path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read: {error.strerror}") from None
    except ValueError:  # invalid UTF-8; the original message would show the byte
        raise SettingsError(f"{name}: {path} cannot be read: it is no text") from None
    if not secret.strip():
        raise SettingsError(f"{name}: {path} is empty")
    return secret
