"""What all sections of the config have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _keys_commented_out(cls, section: Any) -> Any:
        """YAML reads a section in which every key is commented out as null."""
        return {} if section is None else section
