"""What all classes of parameters have in common, those of a stage and those inside them."""

import pydantic

from helpers.profile.error_messages import checked


class Parameters(pydantic.BaseModel):
    """Strict: a number in quotes is no number, and an unknown key is an error."""

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False
    )

    @classmethod
    def of(cls, values: dict):
        """The parameters of a notebook, taken from its variables (`globals()`) and checked.

        Raises:
            UserError: one sentence that names the key, the value and what is allowed.
        """
        given = {name: value for name, value in values.items() if name in cls.model_fields}
        return checked(cls, given, where="parameters")
