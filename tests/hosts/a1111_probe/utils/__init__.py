"""A package with a common name, as other extensions have them."""

OWNER = "apl-probe"
